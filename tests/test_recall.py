"""Recall from Python, from an installed copy, and by the notebook of the docs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import recall
from tests.small import ROOT, SETTINGS, without

FEW = without(SETTINGS, "eval_epsilon", "eval_episodes")


def test_training_calls_back_with_each_row_and_metrics_are_a_table(tmp_path) -> None:
    few = {"runs_dir": tmp_path, "name": "few", **FEW}
    folder = recall.train("drqn", lambda row: row["frames"] < 800, **few)
    # of 1,600
    assert [json.loads(row)["frames"] for row in (folder / "metrics.jsonl").open()] == [400, 800]
    pytest.importorskip("pandas", reason="an extra: pip install '.[interop]'")
    table = recall.metrics(folder, folder)
    assert table["frames"].tolist() == [400, 800] * 2
    assert set(table["run"]) == {"few"}


def test_the_values_of_an_episode_are_those_that_chose_its_actions(finished) -> None:
    how = {"eval_epsilon": 0.5, "observe": "flicker:0.5"}
    (episode,) = recall.play(recall.load_agent(finished, eval_episodes=1, seed=3, **how))
    steps = episode.record.steps
    assert episode.frames.shape == (steps, 84, 84)
    assert 0.3 < episode.frames.any((1, 2)).mean() < 0.7
    assert episode.q.shape == (steps, 4)
    assert episode.core_states.shape[0] == steps
    assert episode.core_states.any()
    # Every second action is random, one in four of these the greedy one by chance: 0.625 of all.
    assert (episode.q.argmax(1) == episode.actions).mean() > 0.5
    assert next(iter(episode.render())).shape == (210, 160, 3)


def test_the_notebook_of_the_docs_runs(tmp_path, monkeypatch) -> None:
    pytest.importorskip("pandas", reason="an extra: pip install '.[interop]'")
    cells = json.loads((ROOT / "docs" / "example.ipynb").read_text())["cells"]
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["episode"].q.shape[1] == 4
    assert names["table"]["frames"].iloc[-1] == 4000


ELSEWHERE = """
import gymnasium, recall, sys
print(str(recall.ROOT) in sys.path, recall.load_agent("runs/away").config.name)
import agents
print(agents.__file__)
env = gymnasium.make("recall.gym:recall/Pong-v0", observe="flicker:0.5")
print(env.reset(seed=1)[0].shape)
"""


def test_an_installed_copy_works_outside_the_checkout_and_takes_one_name_only(tmp_path) -> None:
    copy, site, away = tmp_path / "checkout", tmp_path / "site", tmp_path / "away"
    away.mkdir()

    def run(*words, **others):
        done = subprocess.run(words, cwd=away, capture_output=True, text=True, **others)
        assert done.returncode == 0, done.stderr
        return done.stdout

    product = ["*.py", "*.toml", "*.j2", "LICENSE", "README.md", ":!studies", ":!tests"]
    for name in run("git", "-C", str(ROOT), "ls-files", *product).split():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*pip, "--target", str(site), str(copy))
    names = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert names <= {"recall", "bin"}

    environment = os.environ | {"PYTHONPATH": str(site)}
    few = FEW | {"frames": 600, "name": "away"}
    train = [w for k, v in few.items() for w in ("--" + k.replace("_", "-"), str(v))]
    run(sys.executable, "-m", "recall", "train", "drqn", *train, env=environment)
    assert (away / "runs" / "away" / "metrics.jsonl").exists()
    told = run(sys.executable, "-c", ELSEWHERE, env=environment)
    on_path, file, shape = told.splitlines()
    assert (on_path, shape) == ("False away", "(84, 84)")
    assert Path(file).is_relative_to(site)


def test_unknown_names_and_programs_are_refused(capsys, monkeypatch) -> None:
    with pytest.raises(AttributeError, match="it has load_agent, metrics, play, train"):
        _ = recall.load
    monkeypatch.setattr(sys, "argv", ["recall", "fly"])
    assert recall.main() == 2
    assert "usage: recall {train,evaluate,compare,memory,track}" in capsys.readouterr().out
