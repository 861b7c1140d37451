"""A study on a Ray cluster comes to the figures of a local one, whatever is killed meanwhile."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

import compare
from experiment.cluster import connected
from experiment.settings.config import UsageError
from experiment.store import checkpoint as checkpoints
from experiment.store.metrics import read_rows
from experiment.studies import nodes as module
from experiment.studies.jobs import Jobs, Workers
from experiment.studies.nodes import Node, RayWorkers, changes, write
from experiment.studies.study import make_cells
from tests import small

GRID = "--games breakout --episodes 1 --epsilon 0.5 --video none".split()
QUICK = [*small.OF_STUDY, "--eval-frames", "0"]
BOTH = ("dqn", "drqn:core=gru")


def words_of(out: Path, *words: str, agents: Any = ("dqn",), frames: int = 2_400) -> list[str]:
    """The command line of a study."""
    place = ["--frames", str(frames), "--out", str(out), *words]
    return ["--agents", *agents, *GRID, *place, "--", *QUICK]


def make_jobs(out: Path, *words: str, **changes: Any) -> Jobs:
    (out / "runs").mkdir(parents=True, exist_ok=True)
    study, shared = compare.read_command(words_of(out, *words, **changes))
    return Jobs(make_cells(study, shared), study)


def results(out: Path) -> dict[str, Any]:
    """The result files without what the clock says."""
    return {path.stem: small.result(path) for path in (out / "results").glob("*.json")}


def run_here(jobs: Jobs) -> dict[str, Any]:
    """The results of these cells, run in this process."""
    small.run_cells(jobs.cells, jobs.study)
    return results(jobs.study.out)


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> dict[str, Any]:
    """The results of the study without Ray."""
    return run_here(make_jobs(tmp_path_factory.mktemp("local"), agents=BOTH))


@pytest.fixture
def jobs(tmp_path) -> Jobs:
    return make_jobs(tmp_path)


def children() -> list[psutil.Process]:
    """The programs that run for a study in scratch folders of this cluster's nodes."""
    ours, processes = os.environ["RECALL_CLUSTER"], []
    for process in psutil.process_iter(["cmdline", "environ"]):
        if f"/{module.SCRATCH}" in " ".join(process.info["cmdline"] or []):
            processes += [process] * ((process.info["environ"] or {}).get("RECALL_CLUSTER") == ours)
    return processes


def test_after_a_kill_or_ctrl_c_nothing_runs_and_a_repeat_goes_on(cluster, tmp_path) -> None:
    out, run = tmp_path / "ray", tmp_path / "ray" / "runs" / "dqn-breakout-s1"
    run.mkdir(parents=True)
    (run / "lock").touch()  # as after a kill before the first file of a run
    on_ray = "--ray", cluster.address, "--jobs", "1"
    words = words_of(out, *on_ray, agents=BOTH, frames=1_000_000)
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # Background jobs of a shell ignore Ctrl-C, and so do the programs that they start.
    pipes["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    for number, status in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        started = subprocess.Popen([sys.executable, "compare.py", *words], cwd=small.ROOT, **pipes)
        while not (children() and checkpoints.saved_frames(run)):
            assert started.poll() is None, started.communicate()
            time.sleep(0.1)
        started.send_signal(number)
        text, _ = started.communicate()
        assert started.returncode == status, text
        while running := children():  # also one that the killed study's node began meanwhile
            _, alive = psutil.wait_procs(running, timeout=60)
            assert not alive
        assert [path for path in run.parent.iterdir() if path.is_dir()] == [run]
    assert "repeat the command to continue" in text
    frames = checkpoints.saved_frames(run)[0] + 400
    here, undisturbed = (run_here(make_jobs(where, frames=frames)) for where in (out, tmp_path))
    assert here == undisturbed  # goes on here as well as on the cluster


def test_a_killed_node_does_not_change_the_results(cluster, local, tmp_path, monkeypatch) -> None:
    jobs, (other,) = make_jobs(tmp_path, agents=BOTH), cluster.worker_nodes

    def write_and_kill(cell, files):
        write(cell, files)
        saved = all(checkpoints.saved_frames(cell.folder) for cell in jobs.cells)
        if cluster.worker_nodes and saved:
            cluster.remove_node(other, allow_graceful=False)

    monkeypatch.setattr(module, "write", write_and_kill)
    with connected(cluster.address) as ray:
        jobs.run(RayWorkers(ray, jobs.cells, jobs.study), 2)
    assert not jobs.failures
    assert results(tmp_path) == local
    logs = [cell.log.read_text() for cell in jobs.cells]
    # The run on the lost node began twice, the second time from a checkpoint.
    assert sorted(log.count("network     ") for log in logs) == [1, 2]
    assert not any("starts from its first frame" in log for log in logs)
    assert not children()


def test_a_run_that_no_node_can_begin_fails_with_the_reason(cluster, jobs, monkeypatch) -> None:
    monkeypatch.setattr(module, "changes", lambda *_: ({"a/b/c": "no file"}, {}))
    with connected(cluster.address) as ray:
        jobs.run(RayWorkers(ray, jobs.cells, jobs.study), 1)
    (failure,) = jobs.failures.values()
    assert "no node can run the cell: AttributeError: 'str' object" in failure


# --- without Ray ----------------------------------------------------------------------------------


def test_actors_in_a_run_on_ray_are_refused(tmp_path, error_of) -> None:
    words = [*words_of(tmp_path, "--ray", "auto"), "--actors", "2"]
    assert "--actors 2: a run of --ray has no actors" in error_of(compare.main, words)


def test_a_stopped_run_saves_hands_over_its_last_checkpoint_and_leaves_nothing(jobs) -> None:
    (cell,) = jobs.cells
    node = Node(cell, jobs.study, {})
    error, metrics, stop = None, cell.folder / "metrics.jsonl", False
    while error is None:
        files, _, error = node.news(stop)
        write(cell, files)
        stop = metrics.exists() and bool(read_rows(metrics)[0])
    assert error == ""
    assert checkpoints.saved_frames(cell.folder)[0] > 0
    assert not Path(node._scratch.name).exists()


def test_what_has_changed_makes_the_other_folder_the_same(tmp_path, monkeypatch) -> None:
    cell, copy = (make_jobs(tmp_path / name).cells[0] for name in ("one", "other"))

    def put(*names):
        for path in (cell.folder / name for name in names):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{path}, changed" if path.exists() else str(path))

    def move(known):
        files, known = changes(cell, known)
        write(copy, files)
        return {name.removeprefix(f"{cell.name}/") for name in files}, known

    old, new, newest = (f"checkpoint/{frames:012d}/manifest.json" for frames in (400, 800, 1_600))
    put("metrics.jsonl", "lock", "eval/7.json", old, new, "checkpoint/.writing/manifest.json")
    moved, known = move({})
    assert moved == {"metrics.jsonl", "eval/7.json", new}
    assert move(known)[0] == set()
    put("metrics.jsonl")
    with monkeypatch.context() as patch:  # a checkpoint comes while the files are read
        patch.setattr(np, "fromfile", lambda *_: put(newest))
        assert changes(cell, known) == ({}, known)
    moved, known = move(known)
    assert moved == {"metrics.jsonl", newest}
    for name in ("metrics.jsonl", "eval/7.json", new, newest):
        assert (copy.folder / name).read_bytes() == (cell.folder / name).read_bytes()
    assert checkpoints.saved_frames(copy.folder) == [1600, 800]
    assert changes(copy, {})[1].keys() == known.keys()


FITS = "--cpus-per-run 3"
MORE = "--cpus-per-run 4", "--cpus-per-run 2 --gpus-per-run 1", "--gpus-per-run 0.5"


@pytest.mark.parametrize("words", MORE)
def test_a_run_that_fits_on_no_node_is_refused(words, tmp_path) -> None:
    nodes = [dict(CPU=3.0, memory=8e9), dict(CPU=1.0, GPU=0.25, memory=8e9)]
    nodes.append(dict(CPU=1, GPU=1, memory=1e3))
    ray = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": node} for node in nodes])
    jobs = [make_jobs(tmp_path, "--ray", "auto", *text.split()) for text in (FITS, words)]
    RayWorkers(ray, jobs[0].cells, jobs[0].study)
    says = f"{words.partition(' --')[0]}.*fits on no node of the cluster: 3 cores, 0 GPUs"
    with pytest.raises(UsageError, match=says):
        RayWorkers(ray, jobs[1].cells, jobs[1].study)


def test_gpus_are_looked_for_on_the_nodes_and_not_here(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = [*words_of(tmp_path, "--ray", "auto"), "--device", "cuda", "--precision", "bf16"]
    study, shared = compare.read_command(words)
    (cell,) = make_cells(study, shared)
    assert compare.is_left(cell, None, study)
    says = r"^--device cuda: reserve a GPU for each run with --gpus-per-run 1"
    with pytest.raises(UsageError, match=says):
        RayWorkers(SimpleNamespace(), [cell], study)


def test_a_node_removes_only_the_folders_of_killed_owners(tmp_path, monkeypatch) -> None:
    scratch = tmp_path / "scratch"
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setattr(Workers, "run", lambda *_: iter(()))
    jobs = make_jobs(tmp_path / "study")
    for name in ("killed/.in-use", "a-run/lock"):
        (path := scratch / f"{module.SCRATCH}{name}").parent.mkdir(parents=True)
        path.touch()
    nodes = [Node(jobs.cells[0], jobs.study, {}) for _ in range(2)]
    others = {Path(node._scratch.name) for node in nodes}
    assert {*scratch.iterdir()} == {scratch / f"{module.SCRATCH}a-run", *others}
    for node in nodes:
        node.news(False)


def test_ray_without_an_address_is_local_and_its_runs_use_their_cores() -> None:
    study, shared = compare.read_command(["--ray", "--cpus-per-run", "2"])
    assert (study.ray, study.jobs) == ("local", None)
    assert {cell.config.threads for cell in make_cells(study, shared)} == {2}
    assert compare.read_command(["--ray", "auto"])[0].ray == "auto"
