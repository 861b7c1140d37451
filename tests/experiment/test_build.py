"""From settings to parts: what is refused before a start, and the estimate of memory."""

from typing import Any

import numpy as np
import pytest

from agents.rows import Rows
from envs.emulator import FRAME_SKIP
from experiment import build
from experiment.settings.config import Config, UsageError, override, preset
from experiment.settings.presets import PRESETS

SMALL = {
    "num_envs": 3,
    "batch_size": 2,
    "unroll": 5,
    "burn_in": 2,
    "sequence_stride": 4,
    "replay_rows": 400,
}


def config_of(name: str = "drqn", **changes: Any) -> Config:
    return override(preset(name), changes)


def rows(lanes: int, frames: np.ndarray, state_size: int) -> Rows:
    zeros = np.zeros(lanes)
    return Rows(
        frames,
        zeros > 0,
        zeros.astype(int),
        zeros,
        zeros > 0,
        zeros > 0,
        np.zeros((lanes, state_size)),
    )


def frames_to_an_update(config: Config) -> int:
    """The frames of the shortest run that makes an update, by filling a replay."""
    replay = build.make_replay(config, 0)
    steps, samples = 0, 0.0
    while True:
        samples += config.num_envs * config.samples_per_step if replay.ready else 0
        if samples >= config.batch_size * config.unroll:
            return FRAME_SKIP * config.num_envs * steps + 1
        replay.append(rows(config.num_envs, np.zeros((config.num_envs, 84, 84), np.uint8), 0))
        steps += 1


@pytest.mark.parametrize(
    "changes",
    [
        {"start_rows": 100},
        {"start_rows": 101},
        {"start_rows": 0},  # the first sequence comes later
        {"start_rows": 384},  # a full ring: 128 times of 3 environments
        {"start_rows": 50, "samples_per_step": 0.1},
        {"start_rows": 50, "frame_stack": 7, "sequence_stride": 3},
        {"start_rows": 60, "unroll": 9, "n_step": 4, "batch_size": 7},
    ],
)
def test_a_run_that_could_never_train_is_refused_with_the_least_frames(
    changes: dict[str, Any],
) -> None:
    config = config_of(**SMALL | changes)
    least = frames_to_an_update(config)
    build.check_new(override(config, {"frames": least}))
    with pytest.raises(
        UsageError, match=rf"^--frames {least - 1}: the first update comes at frame {least}, "
    ):
        build.check_new(override(config, {"frames": least - 1}))


def test_more_start_rows_than_the_replay_can_hold_are_refused() -> None:
    # 1248 times, in blocks of 8
    build.check_config(config_of(num_envs=4, replay_rows=5000, start_rows=4992))
    with pytest.raises(UsageError, match=r"^--start-rows 4993: the replay holds only 4992 rows"):
        build.check_config(config_of(num_envs=4, replay_rows=5000, start_rows=4993))
    with pytest.raises(UsageError, match=r"^--replay-rows 100: "):
        build.check_config(config_of(replay_rows=100, start_rows=0))


@pytest.mark.parametrize(
    "stored", [{}, {"update": "random"}, {"core": "identity"}, {"priority_exponent": 0.5}]
)
def test_the_estimate_of_the_replay_is_what_a_full_replay_takes(
    stored: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(**SMALL | {"start_rows": 0, "core_size": 64} | stored)
    state_size = build.blueprint(config).state_size
    replay, rng = build.make_replay(config, state_size), np.random.default_rng(1)
    ring = replay.rings[0]
    for _ in range(ring.capacity):  # frames of which a tenth cannot be compressed
        frames = np.zeros((3, 84, 84), np.uint8)
        frames[:, ::10] = rng.integers(256, size=(3, 9, 84))
        replay.append(rows(3, frames, state_size))
    monkeypatch.setattr(build, "frame_bytes", lambda config: ring._compressed / ring.capacity / 3)
    assert build.expected_bytes(config)["replay"] == pytest.approx(replay.nbytes, rel=0.03)


def test_frames_that_cannot_be_compressed_are_expected_whole() -> None:
    """Measured with noise of 25 grey levels: 4,345 to 6,691 bytes."""
    assert 6_691 <= build.frame_bytes(config_of(observe="noise:25")) <= 84 * 84
    for screen in ("full", "flicker:0.5", "delay:4", "noise:0"):
        assert 600 <= build.frame_bytes(config_of(observe=screen)) <= 640
    noisy, full = (build.expected_bytes(config_of(observe=o))["replay"] for o in ("noise", "full"))
    assert noisy - full > 6e9  # a million rows


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"replay_rows": 10**9}, "--replay-rows 1000000000 --observe full: needs about "),
        ({"observe": "noise:25"}, "--replay-rows 1000000 --observe noise:25: needs about 7."),
        (
            {"core_size": 20_000, "replay_rows": 10_000, "start_rows": 0},
            "--core-size 20000 --hidden 512 ",
        ),
        (
            {"batch_size": 3_000, "unroll": 100, "replay_rows": 10_000, "start_rows": 0},
            "--batch-size 3000 ",
        ),
    ],
)
def test_a_run_that_needs_more_memory_than_is_free_is_refused(
    changes: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "free_memory", lambda: 4 * 10**9)
    with pytest.raises(UsageError) as caught:
        build.check_config(config_of(**changes))
    assert str(caught.value).startswith(says)
    assert str(caught.value).endswith(" GB of memory; 4.0 GB are free")
    build.check_config(config_of())  # the everyday run fits


def test_what_the_machine_has_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "cores", lambda: 2)
    monkeypatch.setattr(build, "has_bf16", lambda device: False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match=r"^--threads 3: this process may use 2 cores"):
        build.check_config(config_of(threads=3))
    with pytest.raises(UsageError, match=r"^--device cuda: no CUDA device"):
        build.check_config(config_of(device="cuda"))
    with pytest.raises(UsageError, match=r"^--precision bf16: "):
        build.check_new(config_of(precision="bf16"))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_start(name: str) -> None:
    build.check_new(preset(name))
    build.check_config(preset(name))


def test_streams_are_independent_and_follow_from_the_seed() -> None:
    draws = {
        (seed, name): build.rng(seed, name).integers(2**62)
        for seed in (1, 2)
        for name in build.STREAMS
    }
    assert len(set(draws.values())) == len(draws)
    assert draws[1, "replay"] == build.rng(1, "replay").integers(2**62)
