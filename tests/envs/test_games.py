import pytest

from envs.emulator import available_games, check_game, machine
from envs.games import SCORES, human_normalised, human_score, random_score
from tests.envs.walk import refused


def test_the_57_games_with_figures_can_all_be_played() -> None:
    assert len(SCORES) == 57
    assert set(SCORES) <= set(available_games())


def test_human_normalised_is_0_for_random_and_1_for_human() -> None:
    assert human_normalised("breakout", 59.3) == pytest.approx((59.3 - 1.7) / (30.5 - 1.7))
    for game, (low, high) in SCORES.items():
        assert (random_score(game), human_score(game)) == (low, high)
        assert human_normalised(game, low) == 0 < human_normalised(game, high) == 1
    unknown = random_score("tetris"), human_score("tetris"), human_normalised("tetris", 99.0)
    assert unknown == (None, None, None)


def test_every_listed_game_opens_and_those_for_two_players_are_not_listed() -> None:
    for game in available_games()[::8]:
        assert machine(game).minimal_actions
    with refused("joust needs two players"):
        check_game("joust")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("SpaceInvaders", "space_invaders"),
        ("ALE/Breakout-v5", "breakout"),
        ("ALE/UpNDown-v5", "up_n_down"),
        ("MsPacman-ram-v0", "ms_pacman"),
        ("brekout", "breakout"),
        ("space-invaders", "space_invaders"),
    ],
)
def test_a_near_miss_says_which_game_was_meant(given, meant) -> None:
    with refused(f"{given!r}.*did you mean '{meant}'"):
        check_game(given)
