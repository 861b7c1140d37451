"""Every command that needs no peer runs, on networks and replays too small to measure anything."""

import numpy as np
import pytest

from benchmarks import common, parts, profile, reel, rendering, replay_memory
from benchmarks.common import Effort
from experiment.settings import config as settings

TINY = Effort(pairs=2, seconds=0.1, rows=1500)
SMALL = dict(frame_stack=1, torso="dqn-2013", hidden=16, core_size=8, unroll=16, n_step=1)
SMALL |= dict(num_envs=2, batch_size=2, replay_rows=1500, samples_per_step=4.0, threads=1)


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path):
    for preset in parts.PRESETS:
        monkeypatch.setitem(settings.PRESETS, preset, settings.PRESETS[preset] | SMALL)
    sizes = dict(SCRATCH=tmp_path, LEARNING=150, ENVS=2, UPDATES=2, SIZES=(64, 128))
    for module in (common, parts, profile, reel, replay_memory):
        own = dict(PRESETS=("drqn",), STEPS=40 if module is reel else 8)
        for name, value in (sizes | own).items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    reel.play("breakout", tmp_path / "breakout-random-2.frames")


@pytest.mark.parametrize("command", [parts.learner, parts.overlap, parts.draw])
def test_a_part_of_the_loop_gives_a_row(command) -> None:
    (row,) = command(TINY)
    assert row.pairs == 2
    assert row.ours > 0 < row.ratio


def test_memory_and_checkpoint_give_a_row() -> None:
    (memory,) = replay_memory.memory("breakout", 600, TINY)
    assert memory.target == pytest.approx(600 / 7056)
    (saving,) = replay_memory.checkpoint(TINY)
    assert (saving.other, saving.ratio) == (600, pytest.approx(saving.ours / 600))


def test_profile_prints_the_parts_of_a_step(capsys) -> None:
    profile.profile("drqn")
    shown = capsys.readouterr().out
    assert all(part in shown for part in "acting sampling learning environment frames/s".split())


def test_a_reel_is_what_was_played_over_and_over(tmp_path) -> None:
    path = tmp_path / "breakout-random-2.frames"
    replay = reel.filled(settings.Config(**SMALL | {"replay_rows": 400}), path)
    played = np.fromfile(path, np.uint8).reshape(40, 2, 84, 84)
    batch, ring = replay.sample(50), replay.rings[0]
    start, lane = np.divmod(batch.origin, 2)
    for i, time in enumerate(start * ring.stride):
        expected = played[(time + np.arange(ring.length)) % 40, lane[i]]
        np.testing.assert_array_equal(batch.inputs.frames[:, i].numpy(), expected)


def test_rendering_gives_a_row_for_each_film(monkeypatch) -> None:
    monkeypatch.setattr(rendering, "GAME", "breakout")  # random play of it is short
    rows = rendering.rendering(Effort(pairs=1))
    assert [row.name for row in rows] == [
        f"film, {what}" for what in ("dqn overlay", "the game alone", "drqn overlay")
    ]
    assert all(row.ratio == row.ours > 0 for row in rows)
