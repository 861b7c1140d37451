"""Environments of gymnasium through the interface that plays Atari."""

from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import av
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box

from envs.families import check_env, task
from envs.images import FPS, single
from envs.protocols import OWN
from envs.tapes import Envs
from experiment.runs.trackers import film
from experiment.studies import page
from tests.envs.walk import CHANCE, WALK, Walk, play, refused, same
from tests.small import resume, start


def test_an_environment_of_gymnasium_has_the_interface_of_atari() -> None:
    envs = Envs(WALK, 3, seed=4)
    assert (envs.frame_shape, envs.frame_skip) == ((84, 84), 1)
    assert (envs.num_actions, envs.protocol.name) == (2, "own")
    frames = envs.reset()
    # luminance of the dot: 0.299 * 255 + 0.587 * 128 = 151
    assert set(np.unique(frames)) <= {*range(152)}
    assert (frames.max(axis=(1, 2)) == 151).all()
    ends = truncated = 0
    for _ in range(100):
        envs.send(np.array([1, 1, 0]))
        step = envs.recv()
        ends, truncated = ends + step.terminated.sum(), truncated + step.truncated.sum()
        assert (step.reward == 2.5 * step.terminated).all()
        for record in envs.finished():
            assert record.score == (2.5 if record.terminated else 0)
            assert record.steps <= 30
    assert ends > 3
    assert truncated >= 3


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("CartPole-v1", r"'CartPole-v1': it observes Box, float32 \[4\], not an image"),
        ("FrozenLake-v1", "not an image"),
        ("CarRacing-v3", "environment 'CarRacing-v3'"),
        ("Walk-v0", "environment 'Walk-v0'"),
        ("no_such_module:Walk-v0", "environment 'no_such_module:Walk-v0'.*No module"),
        ("ALE/Breakout-v5", "did you mean 'breakout'"),
        ("ALE/Joust-v5", "ALE/Joust-v5 needs two players"),
        ("MazeCrazeNoFrameskip-v4", "MazeCrazeNoFrameskip-v4 needs two players"),
        ("BreakoutNoFrameskip-v4", "did you mean 'breakout'"),
        ("walk", "no game named 'walk'"),
    ],
)
def test_an_environment_that_cannot_be_played_is_refused_in_one_line(name, says) -> None:
    with refused(says):
        check_env(name)


def test_small_images_stay_as_they_are() -> None:
    space = Box(0, 255, (6, 7, 3), np.uint8)
    cut = gym.wrappers.TransformObservation(gym.make(WALK), lambda image: image[:6, :7], space)
    gym.register("recall-tests/Small-v0", lambda: cut)
    assert task("recall-tests/Small-v0", OWN) == ((6, 7), 1, ["0", "1"], 4)


def test_actions_have_the_names_of_the_environments_enum_and_films_its_speed() -> None:
    class Named(Walk):
        actions = IntEnum("Actions", ["stay", "right"], start=0)

    class Wrong(Walk):
        actions, metadata = IntEnum("Actions", ["stay"]), {"render_modes": ["rgb_array"]}

    for name, entry in (("Named", Named), ("Wrong", Wrong)):
        gym.register(f"recall-tests/{name}-v0", entry)
    assert task("recall-tests/Named-v0", OWN) == ((84, 84), 1, ["stay", "right"], 4)
    assert task("recall-tests/Wrong-v0", OWN) == ((84, 84), 1, ["0", "1"], FPS)


def test_minigrid_is_drawn_and_repeats_itself() -> None:
    pytest.importorskip("minigrid", reason="an extra: pip install '.[interop]'")
    name = "minigrid:MiniGrid-MemoryS7-v0"
    assert task(name, OWN).action_names[:3] == ["left", "right", "forward"]
    assert single(name).observation_space.shape == (84, 84)
    made, other = (Envs(name, 2, seed=1) for _ in range(2))
    assert made.reset().max() > 100
    play(made, 30)
    other.restore(made.state())
    assert same(made.state(), other.state())


def test_an_environment_that_does_not_repeat_itself_warns_and_cannot_be_resumed(
    tmp_path, error_of, capsys
) -> None:
    folder = start(tmp_path, "chance", game=CHANCE, torso="flat", frames=300)
    assert "Chance-v0 does not repeat itself from a seed" in capsys.readouterr().out
    assert "Chance-v0 does not repeat itself" in error_of(resume, folder, "--frames", "400")


def test_clips_of_trackers_and_reports_have_the_environments_own_speed(tmp_path, capsys) -> None:
    folder = start(tmp_path, "walk", game=WALK, torso="flat", frames=300, eval_frames=300)
    assert "does not repeat itself" not in capsys.readouterr().out
    (scores,) = (folder / "eval").glob("*.json")
    (folder / "films").mkdir()  # of a report
    run: Any = SimpleNamespace(records=f"eval/{scores.stem}")
    for clip in film(folder, int(scores.stem)), folder / page._film(run, 0, folder):
        with av.open(str(clip)) as container:
            stream = container.streams.video[0]
            assert stream.average_rate == Walk.metadata["render_fps"]
            assert stream.frames > 1
