import numpy as np
import pytest

from envs.screens import Observe, parse_screen
from envs.tapes import Envs

CASES = [("breakout", "v5", parse_screen("flicker")), ("qbert", "machado18", Observe("delay", 5))]


def make(game: str, rules: str, how: Observe, **more: int) -> Envs:
    settings = {"seed": 9, "tape_steps": 100, "threads": 2} | more
    return Envs(game, 3, rules, observe=how, **settings)


def play(made: Envs, steps: int, seed: int) -> list:
    """All that can be known from outside: arrays and records, flat."""
    out = []
    for actions in np.random.default_rng(seed).integers(made.num_actions, size=(steps, made.num_envs)):
        made.send(actions)
        out += made.recv()
        for record in made.finished():
            out += [np.array(value) for name, value in vars(record).items() if name != "observe"]
    return out


def same(a: list, b: list) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("game", "rules", "how"), CASES)
def test_after_a_restore_all_is_as_if_never_stopped(game: str, rules: str, how: Observe):
    made = make(game, rules, how)
    made.reset()
    play(made, 449, seed=1)
    frames = play(made, 1, seed=5)[4]  # the field `frame` of the last step
    state = made.state()
    assert (state["tape_number"] > 0).any()
    assert len(set(state["tape_length"].tolist())) > 1  # tapes of different lengths
    assert (state["episode_start"] != state["tape_length"]).any()  # in the middle of episodes
    expected = play(made, 100, seed=2)

    other = make(game, rules, how, threads=1)
    other.reset()
    play(other, 40, seed=3)  # what it played before does not matter
    assert (other.restore(state) == frames).all()
    assert other.finished() == []
    assert same(list(other.state().values()), list(state.values()))
    assert same(play(other, 100, seed=2), expected)
    assert same(list(other.state().values()), list(made.state().values()))


def test_a_tape_that_has_just_changed_can_be_restored_beside_running_ones():
    made, other = make(*CASES[0], tape_steps=50), make(*CASES[0], tape_steps=50)
    made.reset()
    for seed in range(1000):
        play(made, 1, seed)
        if (made.state()["tape_length"] == 0).any():
            break
    state = made.state()
    assert state["tape_length"].min() == 0
    assert state["tape_length"].max() > 50
    other.restore(state)
    assert same(play(made, 100, seed=4), play(other, 100, seed=4))


@pytest.fixture(scope="module")
def saved() -> dict[str, np.ndarray]:
    made = make(*CASES[0])
    made.reset()
    play(made, 20, seed=0)
    return made.state()


@pytest.fixture(scope="module")
def target() -> Envs:
    return make(*CASES[0])


WRONG = {
    "cut_actions": ("actions", np.zeros(59, np.uint8)),
    "too_large_action": ("actions", np.full(60, 4, np.uint8)),  # the emulator would hang
    "other_actions": ("actions", np.full(60, 1, np.uint8)),
    "negative_length": ("tape_length", np.array([80, -20, 0])),
    "too_few": ("tape_length", np.array([30, 30])),
    "other_tape": ("tape_number", np.array([0, 0, 1])),
    "other_seed": ("tape_seed", np.array([1, 2, 3])),
    "other_score": ("episode_score", np.array([99.0, 0, 0])),
    "other_start": ("episode_start", np.array([7, 0, 0])),
    "other_frame": ("screen_crc", np.array([1, 2, 3])),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_state_of_other_environments_is_refused(case: str, saved: dict, target: Envs):
    name, value = WRONG[case]
    with pytest.raises(ValueError, match="saved") as error:
        target.restore(saved | {name: value})
    assert "\n" not in str(error.value)
    target.restore(saved)  # and the right one still works


def test_a_restore_tells_its_progress(saved: dict, target: Envs):
    told = []
    target.restore(saved, lambda done, total: told.append((done, total)))
    assert told == [(t, 20) for t in range(1, 21)]
