"""Environments of gymnasium through the interface that plays Atari."""

from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from envs.episodes import EpisodeRecord, replay_colour, replay_grey
from envs.families import check_env, task
from envs.images import single
from envs.protocols import OWN
from envs.screens import Observe
from envs.tapes import Envs
from tests.small import differences, resume, rows, start


class Walk(gym.Env):
    """A dot on a line of eight: action 1 steps right, 0 stays, and chance pushes it back. The right end pays 2.5."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 4}
    observation_space, action_space = Box(0, 255, (40, 80, 3), np.uint8), Discrete(2)

    def __init__(self, render_mode: str | None = None, honest: bool = True) -> None:
        self.render_mode, self.chance = render_mode, None if honest else np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.at = int(self.np_random.integers(3))
        return self.render(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        chance = self.chance or self.np_random
        self.at = max(0, self.at + int(action) - int(chance.random() < 0.3))
        return self.render(), 2.5 * (self.at == 7), self.at == 7, False, {}

    def render(self) -> np.ndarray:
        picture = np.zeros((40, 80, 3), np.uint8)
        picture[:, 10 * self.at : 10 * self.at + 10] = (255, 128, 0)
        return picture


for name, limit, honest in (("Walk-v0", 30, True), ("Chance-v0", 30, False)):
    gym.register(f"recall-tests/{name}", Walk, max_episode_steps=limit, kwargs={"honest": honest})
WALK, CHANCE = "recall-tests/Walk-v0", "recall-tests/Chance-v0"


def play(envs: Envs, steps: int, seed: int) -> list[Any]:
    out = []
    for actions in np.random.default_rng(seed).random((steps, envs.num_envs)) < 0.7:
        envs.send(actions.astype(np.int64))
        out += [*envs.recv(), *((r.score, r.steps, r.terminated) for r in envs.finished())]
    return out


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_an_environment_of_gymnasium_has_the_interface_of_atari():
    envs = Envs(WALK, 3, seed=4)
    assert (envs.frame_shape, envs.frame_skip, envs.num_actions) == ((84, 84), 1, 2)
    assert envs.protocol.name == "own"
    frames = envs.reset()
    # luminance of the dot: 0.299 * 255 + 0.587 * 128 = 151
    assert set(np.unique(frames)) <= {0, *range(1, 152)}
    assert (frames.max(axis=(1, 2)) == 151).all()
    ends = truncated = 0
    for _ in range(200):
        envs.send(np.array([1, 1, 0]))
        step = envs.recv()
        ends, truncated = ends + step.terminated.sum(), truncated + step.truncated.sum()
        assert (step.reward == 2.5 * step.terminated).all()
        for record in envs.finished():
            assert record.score == (2.5 if record.terminated else 0)
            assert record.steps <= 30
    assert ends > 3
    assert truncated > 3


def test_after_a_restore_all_is_as_if_never_stopped():
    made, other = (Envs(WALK, 3, seed=9, observe=Observe("flicker", 0.5), tape_steps=40) for _ in range(2))
    made.reset()
    play(made, 200, seed=1)
    state = made.state()
    assert (state["tape_number"] > 0).any()
    other.restore(state)
    assert same(play(made, 90, seed=2), play(other, 90, seed=2))
    assert same([*made.state().values()], [*other.state().values()])


def test_an_environment_that_does_not_repeat_itself_is_refused_when_it_is_resumed():
    made, other = (Envs(CHANCE, 2, seed=9) for _ in range(2))
    made.reset()
    play(made, 60, seed=1)
    with pytest.raises(ValueError, match=r"Chance-v0 does not repeat itself.*cannot go on exactly"):
        other.restore(made.state())


def test_an_episode_is_recorded_and_replayed_in_grey_and_colour(tmp_path: Path):
    envs = Envs(WALK, 1, seed=3, observe=Observe("flicker", 0.5))
    frames, rewards, records = [envs.reset()[0]], [], []
    while len(records) < 2:
        envs.send(np.ones(1, int))
        step = envs.recv()
        frames.append(step.frame[0])
        rewards.append(step.reward[0])
        records += envs.finished()
    records[1].save(tmp_path / "episode.json")
    record = EpisodeRecord.load(tmp_path / "episode.json")
    assert (record.game, record.protocol, record.start) == (WALK, "own", records[0].steps)
    grey, points = replay_grey(record)
    assert (grey[:-1] == np.stack(frames[record.start : record.start + record.steps])).all()
    assert (points == rewards[record.start :]).all()
    colour = list(replay_colour(record, every_frame=True))
    assert len(colour) == record.steps + 1
    assert colour[0].shape == (40, 80, 3)
    assert (colour[-1][:, 70:] == (255, 128, 0)).all()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("CartPole-v1", r"'CartPole-v1': it observes Box, float32 \[4\], not an image"),
        ("FrozenLake-v1", "not an image"),
        ("CarRacing-v3", "environment 'CarRacing-v3'"),
        ("Walk-v0", "no environment 'Walk-v0'"),
        ("no_such_module:Walk-v0", "no environment 'no_such_module:Walk-v0'.*No module"),
        ("ALE/Breakout-v5", "did you mean 'breakout'"),
        ("BreakoutNoFrameskip-v4", "did you mean 'breakout'"),
        ("walk", "no game named 'walk'"),
    ],
)
def test_an_environment_that_cannot_be_played_is_refused_in_one_line(name: str, says: str):
    with pytest.raises(ValueError, match=says) as error:
        check_env(name)
    assert "\n" not in str(error.value)


def test_small_images_stay_as_they_are():
    env = gym.make(WALK)
    small = gym.wrappers.TransformObservation(env, lambda image: image[:6, :7], Box(0, 255, (6, 7, 3), np.uint8))
    gym.register("recall-tests/Small-v0", lambda: small)
    assert task("recall-tests/Small-v0", OWN) == ((6, 7), 1, ["0", "1"])


def test_minigrid_is_drawn_and_repeats_itself():
    pytest.importorskip("minigrid", reason="minigrid is an extra: pip install '.[interop]'")
    name = "minigrid:MiniGrid-MemoryS7-v0"
    assert single(name).observation_space.shape == (84, 84)
    made, other = (Envs(name, 2, seed=1) for _ in range(2))
    first = made.reset()
    assert first.max() > 100
    actions = np.random.default_rng(0).integers(made.num_actions, size=(60, 2))
    for actions_t in actions:
        made.send(actions_t)
        made.recv()
    other.restore(made.state())
    assert same([*made.state().values()], [*other.state().values()])


def test_both_agents_train_on_an_environment_of_gymnasium_and_resume_exactly(tmp_path: Path):
    few = {"game": WALK, "frames": 400, "checkpoint_frames": 200, "log_frames": 100, "epsilon_frames": 300}
    for agent in ("dqn", "drqn"):
        whole = start(tmp_path, f"{agent}-whole", agent, **few)
        stopped = start(tmp_path, f"{agent}-stopped", agent, **few | {"frames": 300})
        assert resume(stopped, "--frames", "400") == 0
        assert differences(whole, stopped) == []
        assert rows(whole)[-1]["steps"] == 400
        assert rows(whole)[-1]["loss"] > 0
    record = EpisodeRecord.load(whole / "episodes" / "best.json")
    assert record.game == WALK
    assert len(list(replay_colour(record))) == record.steps + 1


def test_a_run_on_an_environment_that_does_not_repeat_itself_cannot_be_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = start(tmp_path, "chance", game=CHANCE, frames=300, checkpoint_frames=200)
    assert resume(folder, "--frames", "400") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "Chance-v0 does not repeat itself" in last
