"""Recall from Python, from an installed copy, and by the notebook of the docs."""

import json
import os
import subprocess
import sys

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


MINE = """
import agents, envs, gymnasium, train
assert not (agents.OURS or envs.OURS or train.OURS)
gymnasium.register("mine/Recall-v0", "recall.code.envs.recall:Recall")
"""
ELSEWHERE = """
import agents, envs, gymnasium, recall, train
print(recall.load_agent("runs/away").config.name, agents.OURS, envs.OURS, train.OURS)
env = gymnasium.make("recall.gym:recall/Pong-v0", observe="flicker:0.5")
print(env.reset(seed=1)[0].shape)
print(recall.train("drqn", name="b", **{FEW}))
"""


def test_an_installed_copy_works_outside_the_checkout_and_takes_one_name_only(tmp_path) -> None:
    copy, site, away = tmp_path / "checkout", tmp_path / "site", tmp_path / "away"
    away.mkdir()

    def run(*words, **others):
        done = subprocess.run(words, cwd=away, capture_output=True, text=True, **others)
        assert done.returncode == 0, done.stderr
        return done.stdout

    product = "*.py *.toml experiment/*.j2 experiment/*.json LICENSE README.md :!studies :!tests"
    for name in run("git", "-C", str(ROOT), "ls-files", *product.split()).split():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*pip, "--target", str(site), str(copy))
    names = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert names <= {"recall", "bin"}

    environment = os.environ | {"PYTHONPATH": str(site)}

    def flags(**settings):
        return [w for k, v in settings.items() for w in ("--" + k.replace("_", "-"), str(v))]

    recall_command, few = [sys.executable, "-m", "recall"], FEW | {"frames": 600}
    run(*recall_command, "train", "drqn", *flags(**few, name="away"), env=environment)
    assert (away / "runs" / "away" / "metrics.jsonl").exists()
    for name in ("agents", "envs", "train"):  # the user's own
        (away / f"{name}.py").write_text("OURS = False\n")
    (away / "mine.py").write_text(MINE)
    rest = flags(**without(few, "game", "frames") | {"torso": "flat"})
    study = flags(agents="drqn", games="mine:mine/Recall-v0", frames=600, episodes=1, video="none")
    run(*recall_command, "compare", *study, "--out", "study", "--", *rest, env=environment)
    assert (away / "study" / "report.md").exists()
    output = run(sys.executable, "-c", ELSEWHERE.format(FEW=few), env=environment)
    assert output.splitlines() == ["away False False False", "(84, 84)", "runs/b"]


def test_unknown_names_and_programs_are_refused(capsys, monkeypatch) -> None:
    with pytest.raises(AttributeError, match="it has load_agent, metrics, play, train"):
        _ = recall.load
    monkeypatch.setattr(sys, "argv", ["recall", "fly"])
    assert recall.main() == 2
    assert "usage: recall {train,evaluate,compare,memory,track}" in capsys.readouterr().out
