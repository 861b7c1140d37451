"""From settings to parts: what is refused before a start, and the estimate of memory."""

from typing import Any

import numpy as np
import pytest

from agents.rows import Rows
from envs.screens import make_observer, parse_screen
from experiment import build
from experiment.settings.config import Config, UsageError, override, preset
from experiment.settings.presets import PRESETS

SMALL = dict(num_envs=3, batch_size=2, unroll=5, burn_in=2, sequence_stride=4, replay_rows=400)
BIG = dict(replay_rows=10_000, start_rows=0)


def config_of(name: str = "drqn", **changes: Any) -> Config:
    return override(preset(name), changes)


def check(config: Config) -> None:
    """As before a new run; one that goes on must pass the first."""
    build.check_config(config)
    build.check_new(config)


def plain_rows(frames: np.ndarray, state_size: int = 0) -> Rows:
    """Nothing but frames [N, 84, 84]."""
    zeros = np.zeros(len(frames))
    no, states = zeros > 0, np.zeros((len(frames), state_size))
    return Rows(frames, no, zeros.astype(int), zeros, no, no, states)


@pytest.mark.parametrize(
    "stored", [{}, dict(update="random"), dict(core="identity"), dict(priority_exponent=0.5)]
)
def test_the_estimate_of_the_replay_is_what_a_full_replay_takes(stored, monkeypatch) -> None:
    config = config_of(**SMALL | dict(start_rows=0, core_size=64) | stored)
    state_size = build.blueprint(config).state_size
    replay, rng = build.make_replay(config, state_size), np.random.default_rng(1)
    ring = replay.rings[0]
    for _ in range(ring.capacity):  # frames of which a tenth cannot be compressed
        frames = np.zeros((3, 84, 84), np.uint8)
        frames[:, ::10] = rng.integers(256, size=(3, 9, 84))
        replay.append(plain_rows(frames, state_size))
    monkeypatch.setattr(build, "frame_bytes", lambda config: ring._compressed / ring.capacity / 3)
    assert build.expected_bytes(config)["replay"] == pytest.approx(replay.nbytes, rel=0.03)


@pytest.mark.parametrize("game", ["breakout", "krull"])
def test_the_estimate_of_noisy_frames_is_within_a_tenth_of_what_they_take(game) -> None:
    """In random play."""
    config = config_of(game=game, num_envs=1, replay_rows=400)
    envs, draws = build.make_envs(config, build.rules(config)), np.random.default_rng(1)
    frames = [envs.reset()]
    for _ in range(79):
        envs.send(draws.integers(envs.num_actions, size=1))
        frames.append(envs.recv().frame)
    envs.close()
    for noise in ("noise:5", "noise:25", "noise:255"):
        observer = make_observer(parse_screen(noise), 1)
        replay = build.make_replay(config, 0)
        for frame in frames:
            replay.append(plain_rows(observer(frame[0], False)[None]))
        size = replay.rings[0]._compressed / len(frames)
        assert build.frame_bytes(config_of(game=game, observe=noise)) == pytest.approx(
            size, rel=0.1
        )


def test_the_estimate_is_the_usual_one_without_noise() -> None:
    for screen in ("full", "flicker:0.5", "delay:4", "noise:0"):
        assert build.frame_bytes(config_of(observe=screen)) == build.FRAME_BYTES
    noisy, full = (build.expected_bytes(config_of(observe=o))["replay"] for o in ("noise", "full"))
    assert noisy - full > 5e9  # a million rows


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(replay_rows=10**9), "--replay-rows 1000000000 --observe full: need about "),
        (dict(observe="noise:25"), "--replay-rows 1000000 --observe noise:25: need about 6."),
        (BIG | dict(core_size=20_000), "--core-size 20000 --hidden 512 "),
        (BIG | dict(batch_size=3_000, unroll=100), "--batch-size 3000 "),
    ],
)
def test_a_run_that_needs_more_memory_than_is_free_is_refused(changes, says, monkeypatch) -> None:
    monkeypatch.setattr(build, "free_memory", lambda: 4 * 10**9)
    with pytest.raises(
        UsageError, match=rf"^{says}.* GB of memory, the run \d.* GB; 4.0 GB are free$"
    ):
        build.check_config(config_of(**changes))
    check(config_of())  # the everyday run fits
    small = config_of(**SMALL | dict(start_rows=0))
    monkeypatch.setattr(build, "free_memory", lambda: 10**8)
    build.check_config(small)  # this process has the program already
    monkeypatch.setattr(build, "PROGRAM_BYTES", 10**13)  # less this process, of any size
    with pytest.raises(UsageError, match=r"the run 99\d\d\.\d GB; 0\.1 GB are free$"):
        build.check_config(small)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(replay_rows=5000, start_rows=5001), "the replay holds only 5000 rows"),
        (dict(replay_rows=100, start_rows=0), "--replay-rows 100: "),
        (dict(threads=3), "--threads 3: this process may use 2 cores"),
        (dict(device="cuda:1"), "--device cuda:1: this machine has 1 CUDA device; use cuda or cpu"),
        (dict(device="cuda"), "--device cuda: this machine has no CUDA devices; use cpu"),
        (dict(precision="bf16"), "--precision bf16: "),
    ],
)
def test_what_replay_or_machine_cannot_do_is_refused(changes, says, monkeypatch) -> None:
    monkeypatch.setattr(build, "cores", lambda: 2)
    monkeypatch.setattr(build, "has_bf16", lambda device: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    has_gpu = changes != dict(device="cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_gpu)
    with pytest.raises(UsageError, match=says):
        check(config_of(**changes))
    check(config_of(num_envs=4, replay_rows=5000, start_rows=5000))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_start(name) -> None:
    check(preset(name))
