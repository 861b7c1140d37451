"""Trackers show every row and film of a run once, and cannot harm it."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from envs.protocols import PROTOCOLS
from experiment import build
from experiment.runs.trackers import page_command, tracking
from experiment.settings.config import Config
from experiment.store.metrics import MetricsFile

ROOT = Path(__file__).resolve().parents[3]
FAKE_KEY = "0123456789abcdef" * 2 + "deadbeef"  # 40 characters, as wandb asks


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("WANDB_", "TRACKIO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "pong-1")


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "preset: drqn\ngame: breakout\nobserve: full\ncore: lstm\ndevice: null\n"
    )
    return folder


def write_rows(folder: Path, frames: range, position: int = 0, **more: Any) -> MetricsFile:
    metrics = MetricsFile(folder / "metrics.jsonl", position)
    for count in frames:
        metrics.write({"frames": count, "loss": 1 / (count + 1), "return_mean": None, **more})
    return metrics


def track(folder: Path, kind: str, timeout: float = 300.0) -> None:
    """Start and finish at once, which sends all there is."""
    with tracking(folder, kind, timeout):
        pass
    assert "tracking ends" not in (folder / "tracking.log").read_text()


def trackio_values(folder: Path, metric: str) -> list[tuple[int, Any]]:
    """(step, value) of a metric, from trackio's own command."""
    from trackio import cli

    words = [
        "trackio",
        "get",
        "metric",
        "--project",
        "recall",
        "--json",
        "--run",
        folder.name,
        "--metric",
        metric,
    ]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr("trackio.sqlite_storage.TRACKIO_DIR", folder.parent / "trackio")
        patch.setattr("sys.argv", words)
        cli.main()
    return [(value["step"], value["value"]) for value in json.loads(said.getvalue())["values"]]


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of all offline files of a run, as wandb's own message class reads them."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, place, message = path.read_bytes(), 7, b""
        while place + 7 <= len(data):
            # LevelDB's log: no header at the end of a block
            if (left := 32_768 - place % 32_768) < 7:
                place += left
                continue
            size, part = struct.unpack("<HB", data[place + 4 : place + 7])
            message, place = message + data[place + 7 : place + 7 + size], place + 7 + size
            if part in (1, 4):  # whole, or the last part
                history = wandb_internal_pb2.Record.FromString(message).history
                if history.item:
                    rows.append(
                        {
                            (i.key or ".".join(i.nested_key)): json.loads(i.value_json)
                            for i in history.item
                        }
                    )
                message = b""
    return rows


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def files_with(text: str, folder: Path) -> list[Path]:
    return [
        path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()
    ]


def test_a_process_that_hangs_is_gone_at_the_end(run: Path) -> None:
    with tracking(run, "local", 0.5) as (process,):
        assert os.getsid(process.pid) != os.getsid(0)  # Ctrl-C in the terminal does not reach it
        os.kill(process.pid, signal.SIGSTOP)  # deaf to everything but SIGKILL
    assert is_gone(process.pid)


def test_the_process_sends_what_is_written_and_ends_when_training_is_killed(run: Path) -> None:
    write_rows(run, range(3))
    code = (
        "import sys, time, pathlib; from experiment.runs.trackers import tracking\n"
        "with tracking(pathlib.Path(sys.argv[1]), 'local') as (process,):\n"
        "    print(process.pid, flush=True), time.sleep(60)"
    )
    training = subprocess.Popen(
        [sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert training.stdout is not None
    child = psutil.Process(int(training.stdout.readline()))
    training.kill()
    training.wait()
    psutil.wait_procs([child])
    assert [step for step, _ in trackio_values(run, "losses/td_loss")] == [0, 1, 2]


def write_evaluation(run: Path) -> None:
    """One whole episode of random play, as the evaluation at 8 frames."""
    config = Config(game="breakout", num_envs=1, threads=1)
    envs, rng = build.make_envs(config, PROTOCOLS[config.protocol]), np.random.default_rng(1)
    envs.reset()
    while not envs.finished():
        envs.send(rng.integers(envs.num_actions, size=1))
        envs.recv()
    (run / "eval" / f"{8:012d}").mkdir(parents=True)
    envs.finished()[0].save(run / "eval" / f"{8:012d}" / "episode-000.json")
    envs.close()


def test_rows_and_films_arrive_once_in_both_trackers_across_a_resume(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    write_evaluation(run)
    position = write_rows(run, range(0, 8, 4)).position
    write_rows(run, range(8, 9), position, eval_score=2.0, eval_protocol="v5").write(
        {"frames": 12, "loss": 1 / 13}
    )
    track(run, "all")
    # A run that was killed goes on from its checkpoint: the rows since then come again, and new
    # ones.
    write_rows(run, range(8, 9), position, eval_score=2.0, eval_protocol="v5").write(
        {"frames": 12, "loss": 1 / 13}
    )
    write_rows(run, range(16, 20, 4), (run / "metrics.jsonl").stat().st_size)
    track(run, "all")
    steps = [0, 4, 8, 12, 16]
    # A null is no value.
    assert trackio_values(run, "losses/td_loss") == [(step, 1 / (step + 1)) for step in steps]
    assert trackio_values(run, "eval/episodic_return") == [(8, 2.0)]
    assert [value["_type"] for _, value in trackio_values(run, "film")] == ["trackio.video"]
    rows = wandb_rows(run)
    losses = [(row["_step"], row["losses/td_loss"]) for row in rows if "losses/td_loss" in row]
    assert losses == [(step, 1 / (step + 1)) for step in steps]
    assert [r["eval_protocol"] for r in rows if "eval/episodic_return" in r] == ["v5"]
    assert [(r["film_frames"], r["film._type"]) for r in rows if "film._type" in r] == [
        (8, "video-file")
    ]
    # One id, so one run.
    assert len({path.name for path in run.glob("wandb/offline-run-*/*.wandb")}) == 1
    assert files_with(FAKE_KEY, run.parent) == []


def test_agents_of_one_game_and_screen_share_a_group_and_a_new_folder_with_an_old_name_is_a_new_run(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trackio

    write_rows(run, range(3))
    track(run, "local")
    shutil.rmtree(run)
    write_rows(make_run(run), range(2))
    track(run, "local")
    assert "Resumed" not in (run / "tracking.log").read_text()
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", run.parent / "trackio")
    for stored in trackio.Api().runs("recall"):
        config = stored.config or {}
        assert (config["_Group"], config["core"]) == ("breakout full", "lstm")
        assert "device" not in config  # a null


def by_hand(run: Path, kind: str) -> str:
    """The output of the command, which waits a second for wandb's server."""
    code = (
        "import sys; from experiment.runs import trackers as t; t.WANDB_SECONDS = 1.0; "
        "t.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, str(run), "--track", kind]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout


def test_an_old_run_is_sent_by_hand_and_a_spoilt_file_ends_that_in_one_line(run: Path) -> None:
    write_rows(run, range(40, 43))
    assert "--host 127.0.0.1" in by_hand(run, "local")
    assert [step for step, _ in trackio_values(run, "losses/td_loss")] == [40, 41, 42]
    (run / "metrics.jsonl").write_text("{[\n")
    assert by_hand(run, "local").count("\nlocal: tracking ends (") == 1


def test_the_page_command_stays_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = f"{Path(sys.executable).with_name('trackio')} show --project recall --host 127.0.0.1"
    assert (
        page_command(tmp_path / "my runs" / "x")
        == f"TRACKIO_DIR='{tmp_path}/my runs/trackio' {show}"
    )
    monkeypatch.setenv("TRACKIO_DIR", "/data/trackio")
    assert page_command(tmp_path / "runs" / "x") == f"TRACKIO_DIR=/data/trackio {show}"


# Whether a chart has pixels in the colour of the dot before a run's name.
DRAWN = """dot => {
    const colour = getComputedStyle(dot).backgroundColor.match(/[0-9]+/g).map(Number)
    return [...document.querySelectorAll("canvas")].some(chart => {
        const pixels = chart.getContext("2d").getImageData(0, 0, chart.width, chart.height).data
        let count = 0
        for (let i = 0; i < pixels.length; i += 4)
            count += pixels[i + 3] > 200
                && colour.every((level, c) => Math.abs(level - pixels[i + c]) < 16)
        return count > 50
    })
}"""


def test_in_a_browser_the_page_lists_the_runs_draws_their_curves_and_plays_a_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright comes with pip install '.[dev]'"
    )
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:  # the one that playwright downloads does not play H.264
        pytest.skip("no chromium or google-chrome is installed")
    runs = [make_run(tmp_path / "runs" / name) for name in ("dqn-breakout-s1", "drqn-breakout-s1")]
    write_evaluation(runs[1])
    for slope, run in enumerate(runs, start=1):
        metrics = MetricsFile(run / "metrics.jsonl", 0)
        for frames in range(9):
            metrics.write({"frames": frames, "return_mean": frames * slope})
    metrics.write({"frames": 8, "eval_score": 2.0, "eval_protocol": "v5"})
    for run in runs:
        by_hand(run, "local")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("GRADIO_SERVER_PORT", str(listener.getsockname()[1]))
    monkeypatch.setenv("BROWSER", "true")  # a command that opens none
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    command = "exec env " + page_command(runs[0])
    server = subprocess.Popen(
        command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    request.addfinalizer(lambda: (server.kill(), server.wait()))
    assert server.stdout is not None
    address = next(
        found[0] for line in server.stdout if (found := re.search(r"http://127[.0-9:]+", line))
    )

    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"{address}/?project=recall")
        for run in runs:
            dot = page.get_by_text(run.name, exact=True).first.locator(
                "xpath=preceding-sibling::*[1]"
            )
            page.wait_for_function(DRAWN, arg=dot.element_handle())
        page.goto(f"{address}/media?project=recall")
        film = page.locator("video").element_handle()
        film.evaluate("film => { film.muted = true; return film.play() }")
        page.wait_for_function("film => film.currentTime > 0 && film.videoWidth == 320", arg=film)
        browser.close()


def test_with_a_wandb_server_that_never_answers_rows_are_kept_offline_and_training_does_not_wait(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(run, range(40, 43))
    with socket.create_server(("127.0.0.1", 0)) as listener:  # it accepts no connection
        monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with tracking(run, "wandb", 0.5) as (process,):
            pass
        assert is_gone(process.pid)
        assert "offline now" in by_hand(run, "wandb")
    assert [row["_step"] for row in wandb_rows(run)] == [40, 41, 42]
    assert files_with(FAKE_KEY, run.parent) == []
