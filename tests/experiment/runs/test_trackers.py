"""Trackers show every row and film of a run once, and cannot harm it."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from experiment.runs.trackers import page_command, tracking
from experiment.store.metrics import MetricsFile
from tests.small import ROOT

# In one chart, a canvas, the lines have as many colours as the legend names, which is the argument.
DRAWN = """
runs => [...document.querySelectorAll("canvas")].some(canvas => {
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
    const pixels = new Set()
    for (let i = 0; i < data.length; i += 4) pixels.add(`rgb(${data.slice(i, i + 3).join(", ")})`)
    const dots = [...canvas.closest(".plot-container").querySelectorAll(".legend-dot")]
    const colours = new Set(dots.map(dot => getComputedStyle(dot).backgroundColor))
    return colours.size == runs && [...colours].every(colour => pixels.has(colour))
})"""
FAKE_KEY = "0123456789abcdef" * 2 + "deadbeef"  # 40 characters, as wandb asks


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("WANDB_", "TRACKIO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    settings = "preset: drqn\ngame: breakout\nobserve: full\ncore: lstm\ndevice: null\n"
    (folder / "config.yaml").write_text(settings)
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "runs" / "pong-1")


def write_rows(run: Path, frames: Any, position: int | None = None, **more: Any) -> int:
    """Add rows, or write them from a position on. Where they begin."""
    path = run / "metrics.jsonl"
    position = path.stat().st_size if position is None and path.exists() else position or 0
    metrics = MetricsFile(path, position)
    for count in frames:
        metrics.write({"frames": count, "loss": 1 / (count + 1), "return_mean": None, **more})
    return position


def track(run: Path, kind: str) -> None:
    """Start and finish at once, which sends all there is."""
    with tracking(run, kind, 300.0):
        pass
    assert "tracking ends" not in (run / "tracking.log").read_text()


def by_hand(run: Path, kind: str, status: int = 0) -> str:
    """The output of the command, which waits a second for wandb's server."""
    code = "import sys; from experiment.runs import trackers as t; t.WANDB_SECONDS = 1.0; "
    code += "sys.exit(t.main())"
    command = [sys.executable, "-c", code, str(run), "--track", kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def trackio_values(run: Path, metric: str) -> list[tuple[int, Any]]:
    """(step, value) of a metric, from trackio's own command; none if it does not know the run."""
    from trackio import cli

    words = f"trackio get metric --project recall --json --run {run.name} --metric {metric}"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setattr("trackio.sqlite_storage.TRACKIO_DIR", run.parent / "trackio")
        patch.setattr("sys.argv", words.split())
        try:
            cli.main()
        except SystemExit:
            return []
    return [(value["step"], value["value"]) for value in json.loads(said.getvalue())["values"]]


def offline(run: Path) -> list[tuple[int, Any]]:
    """(frames, loss or "film") of each step that wandb has on the disk to send later, in order."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    data, place, record, steps = file.read_bytes(), 7, b"", []  # after the file's own header
    while place < len(data):
        # LevelDB's log format: no part of a record crosses a block of 32 KiB.
        if (rest := -place % 32768) and rest < 7:
            place += rest
        size, part = struct.unpack_from("<HB", data, place + 4)  # after a checksum
        record = record * (part in (3, 4)) + data[place + 7 : place + 7 + size]
        place += 7 + size
        if part in (1, 4) and (items := Record.FromString(record).history.item):
            step = {(*item.nested_key, item.key)[0]: item.value_json for item in items}
            value = "film" if "film" in step else json.loads(step["losses/td_loss"])
            steps.append((json.loads(step["frames"]), value))
    return steps


def files_with(text: str, folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if text.encode() in path.read_bytes()]


def write_evaluation(run: Path, frames: int = 8) -> None:
    """One whole episode, as the evaluation at `frames`."""
    path = run / "eval" / f"{frames:012d}" / "episode-000.json"
    path.parent.mkdir(parents=True)
    shutil.copyfile(ROOT / "zoo" / "breakout-drqn" / "best.json", path)


def test_the_process_sends_what_is_written_and_ends_when_training_is_killed(run) -> None:
    write_rows(run, range(3))
    code = (
        "import sys, time, pathlib; from experiment.runs.trackers import tracking\n"
        "with tracking(pathlib.Path(sys.argv[1]), 'local') as (process,):\n"
        "    print(process.pid, flush=True), time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(run)]
    training = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    child = psutil.Process(int(training.stdout.readline()))
    training.kill()
    training.wait()
    psutil.wait_procs([child])
    assert [step for step, _ in trackio_values(run, "losses/td_loss")] == [0, 1, 2]


def test_rows_and_films_arrive_once_in_both_trackers_across_a_kill_and_a_resume(
    run, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    write_evaluation(run)
    (run / "videos").mkdir()
    (run / "videos" / ".training-000000000008.mp4.99").touch()  # of a killed process
    write_rows(run, [0, 4])
    position = write_rows(run, [8], eval_score=2.0, eval_protocol="v5")
    # Rows do not wait for a film, which another process makes here.
    with FileLock(run / "tracking-films.lock"), tracking(run, "all", 0.0) as processes:
        while not [*run.glob("wandb/*/*.wandb")]:
            time.sleep(0.1)
        write_rows(run, [12])
        while [step for step, _ in trackio_values(run, "losses/td_loss")] != [0, 4, 8, 12]:
            time.sleep(0.1)
    errors = capsys.readouterr().err
    for process in processes:
        assert process.returncode == -signal.SIGKILL
        assert f"send the rest with: {shlex.join(process.args[:-1])}\n" in errors

    # The run goes on from its checkpoint: rows since then come again, and new ones.
    write_rows(run, [8], position, eval_score=2.0, eval_protocol="v5")
    write_rows(run, [12], eval_score=3.0, eval_protocol="v5")
    write_rows(run, [16])
    write_evaluation(run, 12)
    for _ in range(2):
        track(run, "all")
        losses = [(frames, 1 / (frames + 1)) for frames in (0, 4, 8, 12, 16)]
        assert trackio_values(run, "losses/td_loss") == losses
        assert [step for step, _ in trackio_values(run, "film")] == [8, 12]
        assert offline(run) == [*losses, (8, "film"), (12, "film")]
    names = [path.name for path in sorted((run / "videos").iterdir())]
    assert names == ["training-000000000008.mp4", "training-000000000012.mp4"]
    assert files_with(FAKE_KEY, run.parent) == []


def test_a_film_that_fails_costs_no_row(run) -> None:
    write_evaluation(run)
    (record,) = run.glob("eval/*/*.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"seed": 7}))
    write_rows(run, [8], eval_score=2.0, eval_protocol="v5")
    write_rows(run, [12])
    track(run, "local")
    assert [step for step, _ in trackio_values(run, "losses/td_loss")] == [8, 12]
    assert "local: no film at 8 frames (" in (run / "tracking.log").read_text()


def test_a_group_is_a_game_and_screen_and_a_new_folder_is_a_new_run(run, monkeypatch) -> None:
    import trackio

    for rows in (3, 2):
        shutil.rmtree(run)
        write_rows(make_run(run), range(rows))
        track(run, "local")
    assert "Resumed" not in (run / "tracking.log").read_text()
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", run.parent / "trackio")
    for stored in trackio.Api().runs("recall"):
        config = stored.config or {}
        assert (config["_Group"], config["core"]) == ("breakout full", "lstm")
        assert "device" not in config  # a null


def test_an_old_run_is_sent_by_hand_and_a_spoilt_file_ends_that_in_one_line(run) -> None:
    write_rows(run, range(40, 43))
    assert "--host 127.0.0.1" in by_hand(run, "local")
    assert [step for step, _ in trackio_values(run, "losses/td_loss")] == [40, 41, 42]
    (run / "metrics.jsonl").write_text("{[\n")
    assert by_hand(run, "local", status=1).count("\nlocal: tracking ends (") == 1


def test_in_a_browser_the_page_draws_a_line_a_run_and_plays_a_film(
    tmp_path, monkeypatch, request
) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="it comes with '.[dev]'")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:  # the one that playwright downloads does not play H.264
        pytest.skip("no chromium or google-chrome is installed")
    runs = [make_run(tmp_path / "my runs" / name) for name in ("dqn-pong-s1", "drqn-pong-s1")]
    for score, run in enumerate(runs):
        write_rows(run, [8, 12], eval_score=score, eval_protocol="v5")
        write_evaluation(run)
        by_hand(run, "local")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("GRADIO_SERVER_PORT", str(listener.getsockname()[1]))
    monkeypatch.setenv("BROWSER", "true")  # a command that opens none
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    server = subprocess.Popen(f"exec env {page_command(runs[0])}", shell=True, **pipes)
    request.addfinalizer(lambda: (server.kill(), server.wait()))
    addresses = (re.search(r"http://127[.0-9:]+", line) for line in server.stdout)
    address = next(match[0] for match in addresses if match)

    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"{address}/?project=recall")
        for run in runs:
            page.get_by_text(run.name, exact=True).first.wait_for()
        page.wait_for_function(DRAWN, arg=len(runs))
        page.goto(f"{address}/media?project=recall")
        film = page.locator("video").first.element_handle()
        film.evaluate("film => { film.muted = true; return film.play() }")
        page.wait_for_function("film => film.currentTime > 0 && film.videoWidth == 320", arg=film)
        browser.close()


def test_with_a_dead_wandb_server_rows_stay_offline_and_nothing_waits(run, monkeypatch) -> None:
    write_rows(run, range(40, 43))
    with socket.create_server(("127.0.0.1", 0)) as listener:  # it accepts no connection
        monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with tracking(run, "wandb", 0.5) as (process,):
            assert os.getsid(process.pid) != os.getsid(0)  # Ctrl-C in the terminal misses it
            os.kill(process.pid, signal.SIGSTOP)  # deaf to everything but SIGKILL
        assert process.returncode == -signal.SIGKILL
        assert "offline now" in by_hand(run, "wandb")
    assert offline(run) == [(frames, 1 / (frames + 1)) for frames in (40, 41, 42)]
    assert files_with(FAKE_KEY, run.parent) == []
