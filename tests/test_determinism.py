"""The same seed gives the same run; each kind of chance has its own stream."""

from pathlib import Path

import numpy as np
import pytest
import torch

from experiment import build
from experiment.store.checkpoint import load_latest
from tests import small


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path):
    settings = {"frames": 800, "observe": "flicker", "priority_exponent": 0.9}
    one = small.start(tmp_path, "one", **settings)
    torch.manual_seed(99)  # global generators, ours or a library's, must not matter
    np.random.seed(99)
    again = small.start(tmp_path, "again", **settings)
    assert small.differences(one, again) == []
    other = small.start(tmp_path, "other", seed=2, **settings)
    changed = small.differences(one, other)
    for name in (
        "tensor head.advantage.weight",
        "tensor envs.tape_seed",
        "tensor replay.0.frames",
        "meta generators",
        "rows",
    ):
        assert name in changed


@pytest.mark.skipif(build.cores() < 2, reason="one core")
def test_the_number_of_threads_changes_no_bit(tmp_path: Path):
    one, two = (
        small.start(tmp_path, str(n), "drqn", frames=3_200, threads=n, num_envs=18, replay_rows=1_000) for n in (1, 2)
    )
    assert small.differences(one, two) == ["meta config", "meta threads"]


def test_neither_evaluations_nor_checkpoints_disturb_training(finished: Path, tmp_path: Path):
    often = small.start(tmp_path, "often", eval_frames=400, eval_episodes=2, checkpoint_frames=200)
    a, b = small.everything(finished), small.everything(often)
    assert len(list((often / "eval").glob("*.json"))) == 4
    assert [name for name in a if name.startswith(("tensor", "meta gen", "meta sums")) and a[name] != b[name]] == []
    assert [row for row in b["rows"] if "eval_score" not in row] == a["rows"]


def test_every_stream_is_its_own(tmp_path: Path):
    """A change in what one part draws leaves the others' draws as they were."""
    base = small.start(tmp_path, "base", frames=800)
    unlike = small.start(tmp_path, "unlike", frames=800, hidden=16, priority_exponent=0.9, start_rows=60)
    a, b = (load_latest(folder, training=True, report=pytest.fail) for folder in (base, unlike))
    # Other weights and other replay draws; the same games and the same exploration draws.
    assert a.meta["generators"]["exploration"] == b.meta["generators"]["exploration"]
    assert a.meta["generators"]["replay"] != b.meta["generators"]["replay"]
    assert torch.equal(a.training["envs.tape_seed"], b.training["envs.tape_seed"])


def test_flicker_has_its_own_stream(tmp_path: Path):
    """Hidden frames change what is seen, and no other draw."""
    random_play = {"frames": 800, "epsilon_start": 1.0, "epsilon_final": 1.0}
    seen = small.start(tmp_path, "seen", **random_play)
    hidden = small.start(tmp_path, "hidden", observe="flicker", **random_play)
    a, b = (load_latest(folder, training=True, report=pytest.fail) for folder in (seen, hidden))
    assert a.meta["generators"] == b.meta["generators"]
    for name in ("envs.actions", "envs.screen_crc", "replay.0.action", "replay.0.reward", "replay.0.is_first"):
        assert torch.equal(a.training[name], b.training[name])
    assert not torch.equal(a.training["replay.0.open_block"], b.training["replay.0.open_block"])
