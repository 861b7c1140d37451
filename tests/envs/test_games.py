import pytest

from envs.emulator import available_games, check_game, machine
from envs.games import SCORES, human_normalised, human_score, random_score


def test_the_57_games_with_figures_can_all_be_played():
    assert len(SCORES) == 57
    assert set(SCORES) <= set(available_games())


def test_human_normalised_is_0_for_random_and_1_for_human():
    assert human_normalised("breakout", 1.7) == 0
    assert human_normalised("breakout", 30.5) == 1
    assert human_normalised("breakout", 59.3) == pytest.approx((59.3 - 1.7) / (30.5 - 1.7))  # 2
    assert human_normalised("pong", -20.7 - (14.6 - -20.7)) == pytest.approx(-1)
    for game in SCORES:
        low, high = random_score(game), human_score(game)
        assert low is not None
        assert high is not None
        assert low < high
        assert human_normalised(game, (low + high) / 2) == pytest.approx(0.5)


def test_a_game_without_figures_has_no_normalised_score():
    assert "tetris" in available_games()
    assert random_score("tetris") is None
    assert human_score("tetris") is None
    assert human_normalised("tetris", 99.0) is None


def test_every_listed_game_opens_and_those_for_two_players_are_not_listed():
    for game in available_games():
        assert machine(game).minimal_actions
    with pytest.raises(ValueError, match="joust needs two players"):
        check_game("joust")


def test_a_bundled_name_is_taken_as_it_is():
    assert check_game("space_invaders") == "space_invaders"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("SpaceInvaders", "space_invaders"),
        ("ALE/Breakout-v5", "breakout"),
        ("BreakoutNoFrameskip-v4", "breakout"),
        ("ALE/UpNDown-v5", "up_n_down"),
        ("MsPacman-ram-v0", "ms_pacman"),
        ("brekout", "breakout"),
        ("space invaders", "space_invaders"),
        ("space-invaders", "space_invaders"),
    ],
)
def test_a_near_miss_says_which_game_was_meant(given: str, meant: str):
    with pytest.raises(ValueError, match=f"did you mean '{meant}'") as error:
        check_game(given)
    assert repr(given) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_like_nothing_says_what_there_is():
    with pytest.raises(ValueError, match="no game named 'xyzzy': there are adventure"):
        check_game("xyzzy")
