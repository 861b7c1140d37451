"""Exported agents: a small folder that every command takes in place of a run."""

import json
import shutil
from pathlib import Path

import pytest

import evaluate
from envs.episodes import EpisodeRecord
from experiment.scores.agent import CURVE, EVALUATION, WEIGHTS, open_agent
from experiment.settings.config import load
from experiment.store.checkpoint import digest
from experiment.studies import shipped
from tests import small
from tests.small import ROOT

SHORT = "--episodes 2 --epsilon 0.5 --seed 5 --threads 1 --video none".split()


@pytest.fixture(scope="module")
def zoo(finished, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("zoo")
    words = [str(finished), *SHORT, "--export", str(home / "tiny")]
    assert evaluate.main(words) == 0
    return home / "tiny"


def test_an_exported_agent_is_small_scores_as_it_says_and_has_the_runs_curve(finished, zoo) -> None:
    about = json.loads((zoo / EVALUATION).read_text())
    assert about["frames"] == 1600
    assert evaluate.main([str(zoo), *SHORT]) == 0
    (path,) = (zoo / "eval").glob("*-n2-s5.json")
    again = json.loads(path.read_text())
    assert again["scores"] == about["scores"]
    # The settings of the training, not those of the evaluation.
    assert load(zoo / "config.yaml") == load(finished / "config.yaml")
    assert (about["train_seed"], again["train_seed"]) == (1, 1)
    assert len(again["network_sha256"]) == 64
    assert EpisodeRecord.load(zoo / "best.json").score == max(about["scores"])
    assert EpisodeRecord.load(zoo / "median.json").score in about["scores"]
    numbers = about["parameters"] + 2 * 84 * 84  # two bytes each; and each pixel's mean, deviation
    assert 2 * numbers < (zoo / WEIGHTS).stat().st_size < 2 * numbers + 5000
    # Who may read the one reads the other.
    assert (zoo / WEIGHTS).stat().st_mode == (zoo / CURVE).stat().st_mode
    curve = json.loads((zoo / CURVE).read_text())
    frames = [row["frames"] for row in small.rows(finished)]
    assert [row[0] for row in curve["rows"]] == frames


def test_an_export_leaves_the_runs_scores_and_can_be_exported_again(copied, tmp_path) -> None:
    assert evaluate.main([str(copied), *SHORT]) == 0
    (scores,) = (copied / "eval").glob("*-n2-s5.json")
    before = scores.read_text()
    for agent, to in ((copied, "one"), (tmp_path / "one", "two")):
        assert evaluate.main([str(agent), *SHORT, "--export", str(tmp_path / to)]) == 0
    assert scores.read_text() == before
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.is_file()}
        for name in ("one", "two")
    )
    assert one == two
    about = json.loads(one[EVALUATION])
    assert about["network_sha256"] == digest(tmp_path / "one" / WEIGHTS)


def test_a_table_shows_exported_agents_beside_the_published_ones(
    zoo, tmp_path, capsys, error_of
) -> None:
    assert shipped.main([str(zoo.parent)]) == 0
    head, _, line, _, agents, source = capsys.readouterr().out.splitlines()
    cells = dict(zip(*(text.strip("| ").split(" | ") for text in (head, line)), strict=True))
    mean = json.loads((zoo / EVALUATION).read_text())["mean"]
    assert cells["score (95 % interval)"].startswith(f"{mean:.1f} (")
    assert (cells["random"], cells["held button"]) == ("1.7", "4.2")
    assert cells["training return"] == "-"  # no episode ended in so short a run
    assert cells["published"] == "DQN 1.8, QR-DQN 4.5, IQN 3.3 at 1 million"
    assert "2 episodes, protocol v5, epsilon 0.5" in agents
    assert "google/dopamine" in source
    assert "holds no exported agents" in error_of(shipped.main, [str(tmp_path)])


def test_the_training_return_is_the_mean_of_the_last_million_frames(zoo, tmp_path) -> None:
    agent = shutil.copytree(zoo, tmp_path / "tiny")
    about = json.loads((agent / EVALUATION).read_text())
    about |= {"frames": 3_000_000, "interval_95": [None, None]}  # as of one episode
    (agent / EVALUATION).write_text(json.dumps(about))
    returns = {1_900_000: 90.0, 2_000_000: 80.0, 2_000_001: 1.0, 2_500_000: None, 3_000_000: 2.0}
    rows = [[frames, 1.0, mean, None, None, None] for frames, mean in returns.items()]
    fields = json.loads((agent / CURVE).read_text())["fields"]
    (agent / CURVE).write_text(json.dumps({"fields": fields, "rows": rows}))
    table = shipped.table(tmp_path)
    assert " | 1.5 | DQN " in table
    assert f"| {about['mean']:.1f} | 3,000,000 |" in table


def test_the_readme_has_the_scores_of_the_shipped_agents_and_each_can_be_opened() -> None:
    readme = (ROOT / "README.md").read_text().splitlines()
    rows = [row for row in shipped.table(ROOT / "zoo").splitlines() if row.startswith("|")]
    assert len(rows) == 14
    assert set(rows) <= set(readme)
    for weights in (ROOT / "zoo").glob(f"*/{WEIGHTS}"):
        agent = open_agent(weights.parent)
        assert (
            agent.trained["network_sha256"]
            == json.loads(weights.with_name(EVALUATION).read_text())["network_sha256"]
        )
        assert weights.parent.name == f"{agent.config.game}-{agent.config.preset}"
        best = EpisodeRecord.load(weights.with_name("best.json"))
        scores = json.loads(weights.with_name(EVALUATION).read_text())["scores"]
        assert (best.game, best.score) == (agent.config.game, max(scores))


@pytest.mark.parametrize("name", ["config.yaml", WEIGHTS, EVALUATION])
def test_a_damaged_folder_is_one_line(name, zoo, tmp_path, error_of) -> None:
    damaged = shutil.copytree(zoo, tmp_path / "tiny") / name
    damaged.write_bytes(damaged.read_bytes()[:20])
    error_of(evaluate.main, [str(damaged.parent), *SHORT])
