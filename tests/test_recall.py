"""Recall from Python, from an installed copy, and by the notebook of the docs."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import recall
from tests.small import ROOT, SETTINGS

FEW: dict[str, Any] = {k: v for k, v in SETTINGS.items() if k not in ("eval_epsilon", "eval_episodes")} | {
    "frames": 1600,
    "seed": 2,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    folder = recall.train("drqn", rows.append, runs_dir=tmp_path_factory.mktemp("runs"), name="few", **FEW)
    return folder, rows


def test_training_calls_back_with_each_row_and_metrics_are_a_table(trained: tuple[Path, list[dict[str, Any]]]):
    folder, rows = trained
    assert [row["frames"] for row in rows] == [400, 800, 1200, 1600]
    pytest.importorskip("pandas", reason="pandas is an extra: pip install '.[interop]'")
    table = recall.metrics(folder, folder)
    assert table["frames"].tolist() == [400, 800, 1200, 1600] * 2
    assert set(table["run"]) == {"few"}


def test_a_callback_can_stop_training(tmp_path: Path):
    folder = recall.train("dqn", lambda row: row["frames"] < 800, runs_dir=tmp_path, name="short", **FEW)
    assert [json.loads(row)["frames"] for row in (folder / "metrics.jsonl").open()] == [400, 800]


def test_the_values_of_an_episode_are_those_that_chose_its_actions(trained: tuple[Path, list[dict[str, Any]]]):
    agent = recall.load_agent(trained[0], eval_episodes=1, eval_epsilon=0.5, seed=3)
    (episode,) = recall.play(agent)
    steps = episode.record.steps
    assert episode.frames.shape == (steps, 84, 84)
    assert episode.q.shape == (steps, 4)
    assert episode.core_states.shape[0] == steps
    assert episode.core_states.any()
    # every second action is random, and one in four of these is the greedy one by chance: 0.625 of all are greedy
    assert (episode.q.argmax(1) == episode.actions).mean() > 0.5
    assert next(iter(episode.render())).shape == (210, 160, 3)


def test_the_notebook_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("pandas", reason="pandas is an extra: pip install '.[interop]'")
    cells = json.loads((ROOT / "docs" / "example.ipynb").read_text())["cells"]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["episode"].q.shape[1] == 4
    assert names["table"]["frames"].iloc[-1] == 4000


def test_an_installed_copy_works_outside_the_checkout_and_takes_one_name_only(tmp_path: Path):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    copy = tmp_path / "checkout"
    product = ["*.py", "*.toml", "*.j2", "LICENSE", "README.md", ":!studies", ":!tests"]
    listed = subprocess.run(["git", "ls-files", *product], cwd=ROOT, capture_output=True, text=True, check=True)
    names = listed.stdout.split()
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    site, away = tmp_path / "site", tmp_path / "away"
    subprocess.run([*pip, "--target", str(site), str(copy)], check=True, cwd=tmp_path)
    assert {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")} <= {"recall", "bin"}
    away.mkdir()
    environment = os.environ | {"PYTHONPATH": str(site)}

    def run(*words: str) -> str:
        done = subprocess.run([sys.executable, *words], cwd=away, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    few = [word for k, v in (FEW | {"frames": 800}).items() for word in ("--" + k.replace("_", "-"), str(v))]
    run("-m", "recall", "train", "drqn", "--name", "away", *few)
    assert (away / "runs" / "away" / "metrics.jsonl").exists()
    script = """
        import gymnasium, recall, sys
        print(str(recall.ROOT) in sys.path, recall.load_agent("runs/away").config.name)
        import agents
        print(agents.__file__)
        print(gymnasium.make("recall.gym:recall/Pong-v0", observe="flicker:0.5").reset(seed=1)[0].shape)
    """
    on_path, file, shape = run("-c", textwrap.dedent(script)).splitlines()
    assert (on_path, shape) == ("False away", "(84, 84)")
    assert Path(file).is_relative_to(site)


def test_unknown_names_and_programs_are_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(AttributeError, match="it has load_agent, metrics, play, train"):
        _ = recall.load
    monkeypatch.setattr(sys, "argv", ["recall", "fly"])
    assert recall.main() == 2
    assert "usage: recall {train,evaluate,compare}" in capsys.readouterr().out
