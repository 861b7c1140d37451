"""The same seed gives the same run; each kind of chance has its own stream."""

import numpy as np
import pytest
import torch

from agents.cores import CORES
from experiment import build
from experiment.settings.config import override, preset
from experiment.store.checkpoint import load_latest
from tests import small
from tests.batches import ACTIONS, random_batch


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path) -> None:
    settings = {"frames": 800, "observe": "flicker", "priority_exponent": 0.9}
    one = small.start(tmp_path, "one", **settings)
    torch.manual_seed(99)  # global generators, ours or a library's, must not matter
    np.random.seed(99)
    assert small.differences(one, small.start(tmp_path, "again", **settings)) == []
    changed = small.differences(one, small.start(tmp_path, "other", seed=2, **settings))
    parts = {f"tensor {part}" for part in ("head.advantage.weight", "envs.tape_seed")}
    assert {"meta generators", "rows", "tensor replay.0.frames"} | parts <= set(changed)


def test_a_change_in_what_one_part_draws_leaves_the_draws_of_the_others(tmp_path) -> None:
    def run(name, **changes):
        random = {"frames": 800, "epsilon_start": 1.0, "epsilon_final": 1.0}
        folder = small.start(tmp_path, name, **random | changes)
        saved = load_latest(folder, training=True, report=pytest.fail)
        return saved.meta["generators"], saved.training

    (base, rows), (hidden, hidden_rows) = run("base"), run("hidden", observe="flicker")
    unlike, unlike_rows = run("unlike", hidden=16, priority_exponent=0.9, start_rows=60)
    # Other weights and other replay draws; the same games and the same exploration draws.
    assert base["exploration"] == unlike["exploration"]
    assert base["replay"] != unlike["replay"]
    assert torch.equal(rows["envs.tape_seed"], unlike_rows["envs.tape_seed"])
    # Hidden frames change what is seen, and no other draw.
    assert base == hidden
    same = "envs.actions envs.screen_crc replay.0.action replay.0.reward replay.0.is_first"
    for name in same.split():
        assert torch.equal(rows[name], hidden_rows[name]), name
    assert not torch.equal(rows["replay.0.open_block"], hidden_rows["replay.0.open_block"])


@pytest.mark.skipif(build.cores() < 2, reason="one core")
def test_the_number_of_threads_changes_no_bit(tmp_path) -> None:
    # The actor's envs are in two parts, as the learner's batch.
    settings = {"frames": 2_200, "num_envs": 18, "replay_rows": 1_000}
    settings |= {"unroll": 8, "samples_per_step": 4.0}
    one, two = (small.start(tmp_path, str(n), threads=n, **settings) for n in (1, 2))
    assert small.differences(one, two) == ["meta config", "meta threads"]


@pytest.mark.parametrize("core", sorted({*CORES} - {"identity"}))
def test_the_end_of_one_part_changes_no_bit_of_another(monkeypatch, core) -> None:
    """At its end a part clears autocast's cache of weights, which all threads share."""
    monkeypatch.setattr(build, "has_bf16", lambda device: True)
    changes = {"torso": "pooled", "hidden": 8, "core": core, "core_size": 6}
    changes |= {"batch_size": 4, "parts": 2, "burn_in": 3, "unroll": 6}
    config = override(preset("drqn"), changes)

    gradients = []
    for between_resets in (lambda: None, torch.clear_autocast_cache):
        network = build.make_network(config, ACTIONS)

        def interrupted(*args, first=between_resets, then=network.core.unroll):
            first()
            return then(*args)

        monkeypatch.setattr(network.core, "unroll", interrupted)
        batch = random_batch(10, 4, network.state_size, config.frame_stack, ends=0.1)
        build.make_learner(config, network).update(batch)
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_neither_evaluations_nor_checkpoints_disturb_training(finished, tmp_path) -> None:
    often = small.start(tmp_path, "often", eval_frames=800, eval_episodes=2, checkpoint_frames=200)
    assert len(list((often / "eval").glob("*.json"))) == 2
    a, b = small.everything(finished), small.everything(often)
    for name in a:
        if name.startswith(("tensor", "meta gen", "meta sums")):
            assert a[name] == b[name], name
    assert [row for row in b["rows"] if "eval_score" not in row] == a["rows"]
