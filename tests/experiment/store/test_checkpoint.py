"""A checkpoint is whole, or refused in one clear line."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from experiment.settings.config import UsageError
from experiment.store import checkpoint
from experiment.store.checkpoint import Checkpoint, DamagedCheckpointError, load, load_latest, lock, save, saved_frames
from tests import small


def made(frames: int, size: int = 50) -> Checkpoint:
    meta = {"frames": frames, "num_actions": 4, "preset": "drqn", "config": {"game": "breakout"}}
    weights = {"a": torch.arange(size, dtype=torch.float32) + frames}
    return Checkpoint(meta, weights, {"b": torch.arange(size), "empty": torch.zeros(0, dtype=torch.uint8)})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with two checkpoints, of 100 and 200 frames."""
    folder = tmp_path / "run"
    folder.mkdir()
    for frames in (100, 200):
        save(folder / "checkpoint", made(frames))
    return folder


def newest(run: Path) -> Path:
    return run / "checkpoint" / f"{200:012d}"


def loaded(run: Path, said: list[str] | None = None) -> int:
    """The frames of what is loaded, every number of it checked."""
    saved = load_latest(run, training=True, report=(said if said is not None else []).append)
    frames = saved.meta["frames"]
    assert saved.weights["a"].equal(made(frames).weights["a"])
    assert saved.training["b"].equal(made(frames).training["b"])
    return frames


def test_what_is_saved_is_what_is_loaded(run: Path):
    saved = load(newest(run), training=True)
    assert saved.meta.items() >= made(200).meta.items()
    assert saved.training["empty"].shape == (0,)
    assert load(newest(run), training=False).training == {}


def test_folders_of_any_name_can_be_saved_and_loaded(run: Path):
    odd = made(300)
    odd.meta["config"] |= {"name": "a\nb\u00a0", "runs_dir": "/x\udcff\t"}
    save(run / "checkpoint", odd)
    assert load_latest(run, training=True, report=pytest.fail).meta["config"] == odd.meta["config"]


def test_the_last_two_are_kept_and_nothing_else(run: Path):
    save(run / "checkpoint", made(300))
    assert saved_frames(run) == [300, 200]
    assert sorted(p.name for p in (run / "checkpoint").iterdir()) == [f"{n:012d}" for n in (200, 300)]


def test_the_same_frame_can_be_saved_again(run: Path):
    again = made(200)
    again.weights["a"] += 1
    save(run / "checkpoint", again)
    assert load(newest(run), training=False).weights["a"].equal(again.weights["a"])
    assert saved_frames(run) == [200, 100]


FILES = ("manifest.json", "network.safetensors", "training.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_found(run: Path, name: str):
    path = newest(run) / name
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        said: list[str] = []
        frames = loaded(run, said)
        if frames == 200:  # white space of the manifest alone may change: it says the same
            assert name == "manifest.json"
            assert json.loads(damaged) == json.loads(whole)
        else:
            assert frames == 100
            assert len(said) == 1
            assert "damaged checkpoint" in said[0]
            assert "\n" not in said[0]


@pytest.mark.parametrize("name", FILES)
def test_every_cut_is_found(run: Path, name: str):
    path = newest(run) / name
    whole = path.read_bytes()
    for length in range(0, len(whole) - (name == "manifest.json"), 3):
        path.write_bytes(whole[:length])
        assert loaded(run) == 100
    path.write_bytes(whole + b"x")
    assert loaded(run) == 100
    path.unlink()
    assert loaded(run) == 100
    path.mkdir()
    assert loaded(run) == 100
    path.rmdir()
    os.mkfifo(path)  # opening it would wait for ever
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        loaded(run)


def test_if_all_are_damaged_the_error_is_one_line(run: Path):
    for frames in (100, 200):
        (run / "checkpoint" / f"{frames:012d}" / "network.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="no whole checkpoint") as error:
        loaded(run)
    assert "\n" not in str(error.value)


LIES: dict[str, Callable[[dict], object]] = {
    "negative_frames": lambda m: m.update(frames=-4),
    "huge_frames": lambda m: m.update(frames=10**400),
    "fractional_frames": lambda m: m.update(frames=1.5),
    "true_frames": lambda m: m.update(frames=True),
    "no_frames": lambda m: m.pop("frames"),
    "path_as_preset": lambda m: m.update(preset="../../etc/x"),
    "list_as_preset": lambda m: m.update(preset=["drqn"]),
    "config_is_a_list": lambda m: m.update(config=[1]),
    "a_setting_that_no_float_holds": lambda m: m["config"].update(learning_rate=10**400),
    "a_setting_of_two_lines": lambda m: m["config"].update(torso="a\nb"),
    "a_setting_without_end": lambda m: m["config"].update(game="x" * 10_000),
    "a_name_without_end": lambda m: m["config"].update({"x" * 10_000: 1}),
    "many_actions": lambda m: m.update(num_actions=10**9),
    "other_version": lambda m: m.update(version=3),
    "version_is_a_list": lambda m: m.update(version=[[]]),
    "no_files": lambda m: m.pop("files"),
    "files_is_a_number": lambda m: m.update(files=7),
    "deep": lambda m: m.update(deep=json.loads("[" * 900 + "]" * 900)),
}


@pytest.mark.parametrize("lie", [name for name in LIES if name != "deep"])
def test_a_signed_lie_is_refused(run: Path, lie: str):
    small.sign(newest(run), LIES[lie])
    with pytest.raises(DamagedCheckpointError) as error:
        load(newest(run), training=True)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_deep_nesting_is_no_crash(run: Path):
    (newest(run) / "manifest.json").write_text("[" * 100_000)
    assert loaded(run) == 100


def test_a_header_that_lies_about_its_length_is_refused(run: Path):
    path = newest(run) / "network.safetensors"
    for length in (0, 2**20 + 1, 2**31, 2**63, 2**64 - 1):
        path.write_bytes(length.to_bytes(8, "little") + b" " * 1000)
        small.sign(newest(run), lambda m: None)
        with pytest.raises(UsageError):
            load(newest(run), training=True)


def test_a_file_larger_than_memory_is_refused_before_it_is_read(run: Path, monkeypatch: pytest.MonkeyPatch):
    path = newest(run) / "network.safetensors"
    os.truncate(path, 2**40)  # it takes no room on the disk: nothing but a hole
    manifest = json.loads((newest(run) / "manifest.json").read_text())
    manifest["files"]["network.safetensors"]["bytes"] = 2**40
    manifest["check"] = checkpoint._self_check(manifest)
    (newest(run) / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(checkpoint, "_digest", pytest.fail)
    with pytest.raises(UsageError, match="free memory"):
        load(newest(run), training=True)


def test_links_that_lead_out_are_refused(run: Path, tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_text("dear")
    (run / "metrics.jsonl").symlink_to(victim)
    with pytest.raises(UsageError, match="symbolic link"):
        load_latest(run, training=True, report=print)
    (run / "lock").symlink_to(victim)
    with pytest.raises(UsageError, match="lock"), lock(run):
        pass
    assert victim.read_text() == "dear"


def test_the_link_that_wandb_makes_itself_is_no_stranger(run: Path, tmp_path: Path):
    logs = run / "wandb" / "offline-run-20261124_144929-3752dce23697" / "logs"
    logs.mkdir(parents=True)
    (logs / "debug-core.log").symlink_to(tmp_path / "cache.log")
    assert loaded(run) == 200
    (logs / "other.log").symlink_to(tmp_path / "cache.log")
    with pytest.raises(UsageError, match="symbolic link"):
        loaded(run)


def test_names_that_are_almost_numbers_are_no_checkpoints(run: Path):
    for name in ("²", "9" * 200, "٣" * 12, "300"):
        shutil.copytree(newest(run), run / "checkpoint" / name)
    assert saved_frames(run) == [200, 100]
    assert loaded(run) == 200


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    """Root may read everything: be no one for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def open_run() -> Iterator[Path]:
    """A run with two checkpoints that everyone may enter and read, and only its owner may change."""
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o755)
        folder = Path(home) / "run"
        folder.mkdir()
        for frames in (100, 200):
            save(folder / "checkpoint", made(frames))
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        yield folder
        for path in (folder, folder / "checkpoint", newest(folder)):  # or nothing could be removed
            path.chmod(0o755)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_may_not_be_read_is_reported_and_the_one_before_is_used(open_run: Path, name: str):
    (newest(open_run) / name).chmod(0)
    said: list[str] = []
    with without_rights():
        assert loaded(open_run, said) == 100
    assert "Permission denied" in said[0]


@pytest.mark.parametrize("rights", [0, 0o444])
@pytest.mark.parametrize("place", ["checkpoint", "checkpoint/000000000200", "."])
def test_a_folder_that_may_not_be_entered_is_a_clear_error(open_run: Path, place: str, rights: int):
    (open_run / place).chmod(rights)
    with without_rights():
        if place.endswith("200"):
            assert loaded(open_run) == 100
        else:
            with pytest.raises(UsageError) as error:
                loaded(open_run)
            assert "\n" not in str(error.value)


def test_a_folder_that_may_not_be_written_is_an_error_and_can_be_read(open_run: Path):
    with without_rights():
        with pytest.raises(PermissionError):
            save(open_run / "checkpoint", made(300))
        with pytest.raises(UsageError, match="Permission denied"), lock(open_run):
            pass
        assert loaded(open_run) == 200


def test_a_kill_at_any_point_of_a_save_leaves_a_whole_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch):
    """Every call that changes the disk is the last one, in turn; the clean-up does not happen either."""

    class KilledError(BaseException):
        pass

    calls, allowed = 0, 0

    def counted(function: Callable) -> Callable:
        def call(*arguments: object, **more: object) -> object:
            nonlocal calls
            calls += 1
            if calls > allowed:
                raise KilledError
            return function(*arguments, **more)

        return call

    for where, name in (
        (Path, "mkdir"),
        (Path, "rename"),
        (shutil, "rmtree"),
        (os, "fsync"),
        (checkpoint, "save_file"),
    ):
        monkeypatch.setattr(where, name, counted(getattr(where, name)))
    shutil.copytree(run, original := run.with_name("original"))
    while True:
        calls = 0
        try:
            save(run / "checkpoint", made(300 if allowed % 2 else 200))
            break
        except KilledError:
            assert loaded(run) in (100, 200, 300)
        allowed += 1
        calls = -10_000
        for left in (run,):
            shutil.rmtree(left)
            shutil.copytree(original, left)
    assert allowed > 12


@pytest.mark.parametrize("disk", ["1m"], indirect=True)
def test_a_full_disk_leaves_the_older_ones_whole(disk: Path):
    for frames in (100, 200):
        save(disk / "checkpoint", made(frames))
    for name in range(3):  # at every one of the files
        with pytest.raises(OSError, match=r"[Ss]pace") as error:
            save(disk / "checkpoint", made(300, size=(400_000, 90_000, 200_000)[name]))
        assert error.value.errno == errno.ENOSPC
        assert saved_frames(disk) == [200, 100]
        assert loaded(disk) == 200
        assert not (disk / "checkpoint" / ".writing").exists()
    save(disk / "checkpoint", made(300))
    assert loaded(disk) == 300


def test_a_read_only_disk_is_an_error_and_can_be_read(disk: Path):
    save(disk / "checkpoint", made(100))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(OSError, match="Read-only"):
        save(disk / "checkpoint", made(200))
    assert loaded(disk) == 100
    with pytest.raises(UsageError, match="Read-only"), lock(disk):
        pass


def test_a_folder_that_was_moved_away_is_not_made_anew(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "gone" / "checkpoint", made(100))
    assert not (tmp_path / "gone").exists()


def test_version_1_without_a_checksum_of_the_manifest_is_read(run: Path):
    path = newest(run) / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**{k: v for k, v in manifest.items() if k != "check"}, "version": 1}))
    assert loaded(run) == 200
    path.write_text(json.dumps({k: v for k, v in manifest.items() if k != "check"}))
    assert loaded(run) == 100


def test_a_second_process_is_refused(run: Path, capfd: pytest.CaptureFixture[str]):
    with lock(run), pytest.raises(UsageError, match="another process"), lock(run):
        pass
    with lock(run):
        pass
