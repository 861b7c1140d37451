"""A study on a Ray cluster comes to the figures of a local one, whatever is killed meanwhile."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

import compare
from experiment.cluster import study as module
from experiment.cluster.connect import connected
from experiment.cluster.study import Files, Node, RayWorkers, changes, write
from experiment.settings.config import UsageError
from experiment.store import checkpoint as checkpoints
from experiment.store.metrics import read_rows
from experiment.studies.jobs import Children, Jobs
from experiment.studies.study import Cell, make_cells
from tests import small

GRID = "--games breakout --episodes 1 --epsilon 0.5 --video none".split()
QUICK = (
    "--num-envs 2 --replay-rows 500 --start-rows 100 --hidden 32 --batch-size 4 --samples-per-step "
    "1 --eval-frames 0 "
    "--torso dqn-2013 --log-frames 400 --checkpoint-frames 400 --track none"
).split()
AGENTS = ("--agents", "dqn", "drqn:core=gru")


def results(out: Path) -> dict[str, Any]:
    """The result files without what the clock says."""
    return {path.stem: small.result(path) for path in (out / "results").glob("*.json")}


def make_jobs(out: Path, *words: str, frames: int = 2_400) -> Jobs:
    (out / "runs").mkdir(parents=True, exist_ok=True)
    study, shared = compare.read_command(
        [*words, *GRID, "--frames", str(frames), "--out", str(out), "--", *QUICK]
    )
    return Jobs(make_cells(study, shared), study)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of the study without Ray."""
    return run_here(make_jobs(tmp_path_factory.mktemp("local"), *AGENTS))


def run_here(jobs: Jobs) -> dict[str, Any]:
    """The results of these cells, run in this process."""
    small.run_cells(jobs.cells, jobs.study)
    return results(jobs.study.out)


def children() -> list[psutil.Process]:
    """The programs that run for a study in scratch folders of nodes."""
    return [
        p
        for p in psutil.process_iter(["cmdline"])
        if "/recall-" in " ".join(p.info["cmdline"] or [])
    ]


def test_after_a_kill_and_after_ctrl_c_nothing_is_left_running_and_the_same_command_goes_on(
    cluster: Any, tmp_path: Path
) -> None:
    out, run = tmp_path / "ray", tmp_path / "ray" / "runs" / "dqn-breakout-s1"
    words = [
        "--agents",
        "dqn",
        *GRID,
        "--frames",
        "1000000",
        "--out",
        str(out),
        "--ray",
        cluster.address,
        "--",
        *QUICK,
    ]
    for number, status in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        output: dict[str, Any] = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
        }
        started = subprocess.Popen([sys.executable, "compare.py", *words], cwd=small.ROOT, **output)
        while not (children() and checkpoints.saved_frames(run)):
            assert started.poll() is None, started.communicate()
            time.sleep(0.1)
        started.send_signal(number)
        text, _ = started.communicate()
        assert started.returncode == status, text
        while running := children():  # also one that the killed study's node began meanwhile
            _, alive = psutil.wait_procs(running, timeout=60)
            assert not alive
    assert "repeat the command to continue" in text
    frames = checkpoints.saved_frames(run)[0] + 400
    here, undisturbed = (
        run_here(make_jobs(where, "--agents", "dqn", frames=frames)) for where in (out, tmp_path)
    )
    assert here == undisturbed  # goes on here as well as on the cluster


def test_a_study_whose_node_is_killed_half_way_has_the_same_results(
    cluster: Any, local: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, (other,) = make_jobs(tmp_path, *AGENTS), cluster.worker_nodes

    def write_and_kill(cell: Cell, files: Files) -> None:
        write(cell, files)
        if cluster.worker_nodes and all(
            checkpoints.saved_frames(cell.folder) for cell in jobs.cells
        ):
            cluster.remove_node(other, allow_graceful=False)

    monkeypatch.setattr(module, "write", write_and_kill)
    with connected(cluster.address) as ray:
        jobs.run(RayWorkers(ray, jobs.cells, jobs.study), 2)
    assert not jobs.failures
    assert results(tmp_path) == local
    logs = [cell.log.read_text() for cell in jobs.cells]
    # The run on the lost node began twice, the second time from a checkpoint.
    assert sorted(log.count("network     ") for log in logs) == [1, 2]
    assert [log.count("starts from its first frame") for log in logs] == [1, 1]
    assert not children()


def test_a_run_that_no_node_can_begin_fails_with_the_reason(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = make_jobs(tmp_path, "--agents", "dqn")
    monkeypatch.setattr(module, "to_go_on", lambda cell: {"a/b/c": "no file"})
    with connected(cluster.address) as ray:
        jobs.run(RayWorkers(ray, jobs.cells, jobs.study), 1)
    assert (
        "no node can run the cell: AttributeError: 'str' object" in jobs.failures["dqn-breakout-s1"]
    )


# --- without Ray ----------------------------------------------------------------------------------


def test_a_stopped_run_saves_hands_over_its_last_checkpoint_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    jobs = make_jobs(tmp_path, "--agents", "dqn")
    (cell,) = jobs.cells
    cell.folder.mkdir()
    node = Node(cell, jobs.study, module.to_go_on(cell))
    error, stop = None, False
    while error is None:
        files, _, error = node.news(stop)
        write(cell, files)
        stop = (cell.folder / "metrics.jsonl").exists() and bool(
            read_rows(cell.folder / "metrics.jsonl")[0]
        )
    assert error == "stopped"
    assert checkpoints.saved_frames(cell.folder)[0] > 0
    assert not Path(node._scratch.name).exists()


def test_what_has_changed_makes_the_other_folder_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = make_jobs(tmp_path / "one", "--agents", "dqn").cells
    (copy,) = make_jobs(tmp_path / "other", "--agents", "dqn").cells

    def put(name: str, text: str) -> None:
        path = cell.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def move(known: Any) -> tuple[dict[str, str], Any]:
        files, known = changes(cell, known)
        write(copy, files)
        return {
            name.removeprefix(f"{cell.name}/"): data.tobytes().decode()
            for name, data in files.items()
        }, known

    for name, text in {"metrics.jsonl": "1\n", "lock": "", "eval/7.json": "{}"}.items():
        put(name, text)
    for frames in ("000000000400", "000000000800", ".writing"):
        put(f"checkpoint/{frames}/manifest.json", frames)
    moved, known = move({})
    newest = "checkpoint/000000000800/manifest.json"
    assert moved == {"metrics.jsonl": "1\n", "eval/7.json": "{}", newest: "000000000800"}
    assert move(known)[0] == {}
    put("metrics.jsonl", "1\n2\n")
    with monkeypatch.context() as patch:  # a checkpoint comes while the files are read
        patch.setattr(
            np, "fromfile", lambda *_: put("checkpoint/000000001600/manifest.json", "000000001600")
        )
        assert changes(cell, known) == ({}, known)
    moved, known = move(known)
    assert moved == {
        "metrics.jsonl": "1\n2\n",
        "checkpoint/000000001600/manifest.json": "000000001600",
    }
    assert checkpoints.saved_frames(copy.folder) == [1600, 800]
    assert changes(copy, {})[1].keys() == known.keys()


@pytest.mark.parametrize(
    "words",
    [
        ("--cpus-per-run", "4"),
        ("--cpus-per-run", "2", "--gpus-per-run", "1"),
        ("--gpus-per-run", "0.5"),
    ],
)
def test_a_run_that_fits_on_no_node_is_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    nodes = [
        {"CPU": 3.0, "memory": 8e9},
        {"CPU": 1.0, "GPU": 0.25, "memory": 8e9},
        {"CPU": 1, "GPU": 1, "memory": 1e3},
    ]
    ray = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": node} for node in nodes])
    jobs = make_jobs(tmp_path, "--ray", "auto", "--agents", "dqn", *words)
    with pytest.raises(
        UsageError, match=rf"{' '.join(words[:2])}.*fits on no node of the cluster: 3 cores, 0 GPUs"
    ):
        RayWorkers(ray, jobs.cells, jobs.study)
    RayWorkers(
        ray,
        (
            jobs := make_jobs(tmp_path, "--ray", "auto", "--agents", "dqn", "--cpus-per-run", "3")
        ).cells,
        jobs.study,
    )


def test_gpus_are_looked_for_on_the_nodes_and_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = ["--ray", "auto", *GRID, "--frames", "2400", "--agents", "dqn", "--out", str(tmp_path)]
    study, shared = compare.read_command(
        [*words, "--", *QUICK, "--device", "cuda", "--precision", "bf16"]
    )
    (cell,) = make_cells(study, shared)
    assert compare.is_left(cell, None, study)
    with pytest.raises(
        UsageError, match=r"^--device cuda: reserve a GPU for each run with --gpus-per-run 1"
    ):
        RayWorkers(SimpleNamespace(), [cell], study)


def test_a_node_removes_the_folders_of_owners_that_were_killed_and_of_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(Children, "run", lambda *_: iter(()))
    jobs = make_jobs(tmp_path / "study", "--agents", "dqn")
    for name in ("killed/.in-use", "a-run/lock"):
        (path := tmp_path / f"{module.SCRATCH}{name}").parent.mkdir()
        path.touch()
    alive, other = (Node(jobs.cells[0], jobs.study, {}) for _ in range(2))
    left = {path.name.removeprefix(module.SCRATCH) for path in tmp_path.glob(f"{module.SCRATCH}*")}
    assert left == {
        "a-run",
        *(Path(n._scratch.name).name.removeprefix(module.SCRATCH) for n in (alive, other)),
    }
    for node in (alive, other):
        node.news(False)


def test_ray_without_an_address_is_local_and_its_runs_use_their_cores() -> None:
    study, shared = compare.read_command(["--ray", "--cpus-per-run", "2"])
    assert (study.ray, study.jobs) == ("local", None)
    assert {cell.config.threads for cell in make_cells(study, shared)} == {2}
    assert compare.read_command(["--ray", "auto"])[0].ray == "auto"
