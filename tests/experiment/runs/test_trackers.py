import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from experiment.runs import trackers as tracking
from experiment.runs.trackers import Tracker, page_command, start_tracker
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
def run_folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "pong-1")


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: pong-1\npreset: drqn\ngame: pong\ncore: lstm\nseed: 1\n")
    return folder


def write_rows(folder: Path, frames: range, position: int = 0) -> MetricsFile:
    metrics = MetricsFile(folder / "metrics.jsonl", position)
    for count in frames:
        metrics.write({"frames": count, "loss": 1 / (count + 1)})
    return metrics


def stored_rows(folder: Path) -> list[tuple[str, int, float]]:
    with sqlite3.connect(folder.parent / "trackio" / "recall.db") as database:
        rows = database.execute("SELECT run_id, step, metrics FROM metrics ORDER BY id").fetchall()
    return [(run, step, json.loads(text).get("loss")) for run, step, text in rows]


def track(folder: Path, kind: str, timeout: float = 300.0) -> float:
    """Start and finish at once, which sends all there is. The seconds `finish` took: many on a busy machine."""
    return seconds_to_finish(start_tracker(folder, kind), timeout)


def seconds_to_finish(tracker: Tracker, timeout: float) -> float:
    start = time.monotonic()
    tracker.finish(timeout)
    return time.monotonic() - start


def wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def pid_of(tracker: Tracker) -> int:
    assert tracker._process is not None
    return tracker._process.pid


def files_with(text: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


# --- the tracker seen from training -----------------------------------------------------------------------


def test_no_tracker_is_a_null_object(run_folder: Path) -> None:
    tracker = start_tracker(run_folder, "none")
    tracker.finish()
    tracker.finish()
    assert not (run_folder / "tracking.log").exists()


def test_an_unknown_tracker_is_named(run_folder: Path) -> None:
    with pytest.raises(ValueError, match="--track tensorboard: choose one of none, local, wandb, all"):
        start_tracker(run_folder, "tensorboard")


def test_a_process_that_cannot_start_harms_nothing(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    start_tracker(run_folder, "local").finish()
    assert "tracking did not start" in capsys.readouterr().err


def test_a_killed_process_harms_nothing(run_folder: Path) -> None:
    tracker = start_tracker(run_folder, "local")
    os.kill(pid_of(tracker), signal.SIGKILL)
    assert seconds_to_finish(tracker, 5.0) < 2.0


def test_a_process_that_hangs_is_ended_in_time(run_folder: Path) -> None:
    tracker = start_tracker(run_folder, "local")
    pid = pid_of(tracker)
    os.kill(pid, signal.SIGSTOP)  # deaf to everything but SIGKILL
    assert seconds_to_finish(tracker, 1.0) < 1.5
    assert is_gone(pid)


def test_the_process_ends_when_training_is_killed(run_folder: Path) -> None:
    write_rows(run_folder, range(3))
    code = (
        "import sys, time, pathlib; from experiment.runs.trackers import start_tracker\n"
        "tracker = start_tracker(pathlib.Path(sys.argv[1]), 'local')\n"
        "print(tracker._process.pid, flush=True); time.sleep(60)"
    )
    training = subprocess.Popen(
        [sys.executable, "-c", code, str(run_folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert training.stdout is not None
    pid = int(training.stdout.readline())
    training.kill()
    training.wait()
    assert wait_for(lambda: is_gone(pid))
    assert [step for _, step, _ in stored_rows(run_folder)] == [0, 1, 2]


def test_ctrl_c_in_the_terminal_does_not_reach_the_process(run_folder: Path) -> None:
    tracker = start_tracker(run_folder, "local")
    assert os.getsid(pid_of(tracker)) != os.getsid(0)
    tracker.finish()


def test_the_log_is_bounded(run_folder: Path) -> None:
    write_rows(run_folder, range(1))
    (run_folder / "tracking.log").write_bytes(b"x" * (tracking.MAX_LOG_BYTES + 1))
    track(run_folder, "local")
    assert (run_folder / "tracking.log").stat().st_size < 10_000


# --- trackio ----------------------------------------------------------------------------------------------


def test_rows_arrive_in_the_local_store(run_folder: Path) -> None:
    metrics = write_rows(run_folder, range(3))
    tracker = start_tracker(run_folder, "local")
    assert wait_for(lambda: (run_folder / "tracking.json").exists())
    metrics.write({"frames": 3, "loss": None})  # written while it follows; a null is no metric
    tracker.finish()
    assert [row[1:] for row in stored_rows(run_folder)] == [(0, 1.0), (1, 1 / 2), (2, 1 / 3), (3, None)]
    with sqlite3.connect(run_folder.parent / "trackio" / "recall.db") as database:
        config = json.loads(database.execute("SELECT config FROM configs").fetchone()[0])
    assert config["_Group"] == "drqn pong"  # every core of one question in one group
    assert config["core"] == "lstm"


def test_a_resumed_run_sends_no_row_twice(run_folder: Path) -> None:
    position = write_rows(run_folder, range(2)).position
    write_rows(run_folder, range(2, 5), position)
    track(run_folder, "local")
    write_rows(run_folder, range(2, 7), position)  # rows 2 to 4 come again
    (run_folder / "tracking.json").write_text('{"local": {"sent": 1}}')  # killed before the note
    track(run_folder, "local")
    rows = stored_rows(run_folder)
    assert [step for _, step, _ in rows] == [0, 1, 2, 3, 4, 5, 6]
    assert len({run for run, _, _ in rows}) == 1


def test_rows_at_the_same_frame_count_are_all_sent(run_folder: Path) -> None:
    metrics = write_rows(run_folder, range(5, 6))
    track(run_folder, "local")
    metrics.write({"frames": 5, "loss": 99.0})  # an evaluation right after the resume
    track(run_folder, "local")
    assert [row[1:] for row in stored_rows(run_folder)] == [(5, 1 / 6), (5, 99.0)]


def test_a_new_folder_with_an_old_name_is_a_new_run(run_folder: Path) -> None:
    write_rows(run_folder, range(3))
    track(run_folder, "local")
    for path in run_folder.iterdir():
        path.unlink()
    run_folder.rmdir()
    write_rows(make_run(run_folder), range(2))
    track(run_folder, "local")
    rows = stored_rows(run_folder)
    assert [step for _, step, _ in rows] == [0, 1, 2, 0, 1]
    assert rows[0][0] != rows[-1][0]


def test_damaged_lines_and_settings_do_not_stop_it(run_folder: Path) -> None:
    (run_folder / "config.yaml").write_text("name: [")
    (run_folder / "tracking.json").write_text("{")
    nested, long = "[" * 50_000, f'{{"frames": 9, "loss": "{"x" * tracking.MAX_ROW_BYTES}"}}'
    hostile = [nested, long, '{"frames": 1e999}', '{"frames": NaN}', '{"frames": -5}', '{"frames": [1]}']
    lines = ['{"frames": 1}', '{"loss": 1}', "not json", "[]", *hostile, '{"frames": 2, "loss": {"a": 1}}', '{"fra']
    (run_folder / "metrics.jsonl").write_text("\n".join(lines))
    track(run_folder, "local")
    assert [step for _, step, _ in stored_rows(run_folder)] == [1, 2]


@pytest.mark.parametrize("marks", ["[]", '{"local": [1]}', '{"local": {"sent": 1e999}}', "[" * 50_000])
def test_a_note_that_lies_is_no_note(run_folder: Path, marks: str) -> None:
    (run_folder / "tracking.json").write_text(marks)
    (run_folder / "config.yaml").write_text(f"game: 0x{'f' * 5000}\n" if marks == "[]" else "a: !!int ''\n")
    sent = follow_with(run_folder, write_rows(run_folder, range(3)))
    assert [frames for frames, _ in sent] == [0, 1, 2]


def follow_with(folder: Path, _: MetricsFile) -> list[tuple[int, dict]]:
    """What a tracker is given of a run, and its name as the key "run"."""
    sent: list[tuple[int, dict]] = []

    class Keep:
        def __init__(self, folder: Path, name: str, *_: object) -> None:
            self.note, self.name = {}, name

        def stored_rows(self) -> None:
            return None

        def log(self, row: dict, frames: int) -> None:
            sent.append((frames, {**row, "run": self.name}))

        def finish(self) -> None:
            pass

    done = threading.Event()
    done.set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tracking.SINKS, "local", Keep)
        tracking.follow(folder, "local", done)
    return sent


@pytest.mark.parametrize("name", ["../../outside", "/tmp/outside", "..", "a\\b", "[[1], [2]]", "x" * 999])
def test_a_strangers_name_is_no_path(run_folder: Path, name: str) -> None:
    (run_folder / "config.yaml").write_text(f"name: {name}\n")
    assert [row["run"] for _, row in follow_with(run_folder, write_rows(run_folder, range(1)))] == ["pong-1"]


def test_the_page_command_stays_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my runs" / "pong-1"
    program = Path(sys.executable).with_name("trackio")
    monkeypatch.chdir(tmp_path)
    assert page_command(folder) == (f"TRACKIO_DIR='my runs/trackio' {program} show --project recall --host 127.0.0.1")
    monkeypatch.chdir(program.parents[1])
    assert f"'{tmp_path}/my runs/trackio' bin/trackio show" in page_command(folder)
    monkeypatch.setenv("TRACKIO_DIR", "/data/trackio")
    assert page_command(folder).startswith("TRACKIO_DIR=/data/trackio ")


def test_the_local_page_listens_on_loopback_alone(run_folder: Path) -> None:
    write_rows(run_folder, range(2))
    track(run_folder, "local")
    page = subprocess.Popen(
        f"exec env {page_command(run_folder)}", shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process, found = psutil.Process(page.pid), []

        def listening() -> bool:
            found[:] = [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            return bool(found)

        assert wait_for(listening)
        assert set(found) == {"127.0.0.1"}
    finally:
        page.kill()
        page.wait()


# --- wandb ------------------------------------------------------------------------------------------------


def offline_data(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")))


def test_wandb_is_online_only_with_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracking.wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    assert tracking.wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert tracking.wandb_mode() == "offline"
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / "netrc").write_text(f"machine wandb.example\nlogin user\npassword {FAKE_KEY}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert tracking.wandb_mode() == "offline"  # a key for another server
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example")
    assert tracking.wandb_mode() == "online"


def test_an_old_run_is_sent_by_hand_without_torch_and_without_the_key(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    monkeypatch.setenv("WANDB_MODE", "offline")
    write_rows(run_folder, range(40, 43))
    code = (
        "import sys; from experiment.runs.trackers import main; main(sys.argv[1:])\n"
        "assert not {'torch', 'ale_py', 'ray'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(run_folder), "--track", "all"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert page_command(run_folder) in result.stdout
    assert [step for _, step, _ in stored_rows(run_folder)] == [40, 41, 42]
    data = offline_data(run_folder)
    assert b"drqn pong" in data
    assert all(b"\x05_step\x82\x01\x02%d" % frames in data for frames in (40, 41, 42))  # key, tag, length 2, JSON
    assert files_with(FAKE_KEY, run_folder.parent) == []

    write_rows(run_folder, range(40, 45))  # resumed: the same rows and two more
    track(run_folder, "wandb")
    data = offline_data(run_folder)
    assert b"\x05_step\x82\x01\x0244" in data
    assert data.count(b"0.024390243902439025") == 2  # 1 / 41, in history and in summary, once each
    assert len({path.name for path in run_folder.glob("wandb/offline-run-*/*.wandb")}) == 1  # one id


@pytest.fixture(params=["never answers", "drops", "refuses"])
def bad_server(request: pytest.FixtureRequest) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    kept: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                if request.param == "drops":
                    connection.close()
                else:
                    kept.append(connection)

    if request.param == "refuses":
        listener.close()
    else:
        threading.Thread(target=serve, daemon=True).start()
    yield url
    if request.param != "refuses":
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for connection in kept:
        connection.close()


def test_a_bad_wandb_server_cannot_hold_training(
    run_folder: Path, bad_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    monkeypatch.setenv("WANDB_BASE_URL", bad_server)
    write_rows(run_folder, range(3))
    start = time.monotonic()
    tracker = start_tracker(run_folder, "all")
    assert time.monotonic() - start < 0.5
    assert wait_for(lambda: (run_folder / "tracking.json").exists())
    pid = pid_of(tracker)
    assert seconds_to_finish(tracker, 3.0) < 3.5
    assert is_gone(pid)
    assert [step for _, step, _ in stored_rows(run_folder)] == [0, 1, 2]  # the local page is not held up
    assert files_with(FAKE_KEY, run_folder.parent) == []


def test_without_a_network_wandb_goes_on_offline(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    write_rows(run_folder, range(40, 43))
    track(run_folder, "wandb")
    assert (run_folder / "tracking.log").read_text().count("offline now") == 1
    assert b"\x05_step\x82\x01\x0242" in offline_data(run_folder)
    assert files_with(FAKE_KEY, run_folder.parent) == []
