import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import score
from benchmarks.score import NATURE, OURS, PEERS, adopt
from experiment.settings.config import preset
from tests.batches import random_inputs

A = 3


@pytest.mark.parametrize("quantiles", [1, 5])
def test_the_peers_weights_in_our_network_give_the_peers_values(quantiles) -> None:
    """Theirs reads [N, 4, 84, 84] / 255, and gives A values for each of its quantiles in turn."""
    torch.manual_seed(1)
    conv = [nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3)]
    layers = [*conv, nn.Sequential(nn.Flatten(), nn.Linear(3136, 512))]
    peer = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
    peer.append(nn.Linear(512, quantiles * A))
    ours = adopt(list(peer.parameters()), replace(preset("dqn"), **NATURE), A)
    inputs = random_inputs(1, lanes=2, depth=4, starts=0.0)
    with torch.no_grad():
        q, _ = ours(inputs, ours.initial_state(2))
        expected = peer(inputs.frames.transpose(0, 1) / 255).view(2, quantiles, A).mean(1)
    np.testing.assert_allclose(q[0].numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


WORDS = "--game breakout --episodes 1 --minutes 1 --sides dqn"


@pytest.fixture
def names(monkeypatch):
    """The names of the runs that would be trained, each with a folder."""
    runs = []

    def run_side(side, game, minutes, seed, episodes, folder):
        folder.mkdir()
        runs.append(folder.name)
        return {"side": side, "seed": seed, "score": 2.0}

    monkeypatch.setattr(score, "run_side", run_side)
    return runs


def test_a_command_goes_on_from_its_file_and_keeps_the_runs(
    names, tmp_path, error_of, monkeypatch, capsys
) -> None:
    path, words = tmp_path / "score.json", [*WORDS.split(), "--runs-dir", str(tmp_path / "runs")]
    words += ["--json", str(path)]
    assert score.main([*words, "--seeds", "1"]) == 0
    assert score.main([*words, "--seeds", "2"]) == 0
    assert f"dqn  seed 1  is in {path}" in capsys.readouterr().out.replace("\n", "")
    assert names == ["dqn-breakout-s1", "dqn-breakout-s2"]
    assert sorted(place.name for place in (tmp_path / "runs").iterdir()) == names
    assert [run["seed"] for run in json.loads(path.read_text())["runs"]] == [1, 2]
    assert "its runs have minutes 1.0" in error_of(score.main, [*words, "--minutes", "2"])
    monkeypatch.setattr(score, "cores", lambda: 64)
    assert "its runs have cores" in error_of(score.main, words)
    path.unlink()
    shutil.rmtree(tmp_path / "runs" / "dqn-breakout-s1")
    assert "has dqn-breakout-s2" in error_of(score.main, [*words, "--seeds", "2"])
    assert len(names) == 2


def test_the_readme_has_the_scores_of_the_committed_files() -> None:
    for path in (score.ROOT / "benchmarks").glob("score-*.json"):
        runs = json.loads(path.read_text())["runs"]
        sides = [[r["score"] for r in runs if r["side"] == s] for s in (*OURS, *PEERS)]
        cells = [", ".join(f"{value:.1f}" for value in values) for values in sides]
        game = path.stem.removeprefix("score-").replace("_", " ").title()
        assert f"\n| {game} | {' | '.join(cells)} | " in (score.ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--game breakou", "--game breakou: "),
        ("--episodes 0", "--eval-episodes 0: "),
        ("--json /proc/no/x.json", "/proc/no: cannot be written"),
    ],
)
def test_a_wrong_request_is_one_line_before_any_training(words, says, names, error_of) -> None:
    assert says in error_of(score.main, [*WORDS.split(), *words.split()])
    assert names == []
