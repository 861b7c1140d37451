"""A checkpoint is whole, or refused in one clear line."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from experiment.settings.config import UsageError
from experiment.store import checkpoint
from experiment.store.checkpoint import Checkpoint, load, load_latest, lock, save, saved_frames
from tests import small

FILES = ("manifest.json", "network.safetensors", "training.safetensors")


def made(frames: int, size: int = 50) -> Checkpoint:
    meta = dict(frames=frames, num_actions=4, preset="drqn", config={"game": "breakout"})
    training = {"b": torch.arange(size), "empty": torch.zeros(0, dtype=torch.uint8)}
    return Checkpoint(meta, {"a": torch.arange(size, dtype=torch.float32) + frames}, training)


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


def test_what_is_saved_is_what_is_loaded(run) -> None:
    saved = load(newest(run), training=True)
    assert saved.meta.items() >= made(200).meta.items()
    assert saved.training["empty"].shape == (0,)
    assert load(newest(run), training=False).training == {}


def test_the_last_two_are_kept_and_nothing_else_also_where_a_frame_is_saved_again(run) -> None:
    for more in (1, 2, 3):
        again = made(200)
        again.weights["a"] += more
        path = save(run / "checkpoint", again)
        saved = load_latest(run, training=False, report=pytest.fail)
        assert saved.weights["a"].equal(again.weights["a"])
        assert path.name == f"{200:012d}.{more}"
        assert saved_frames(run) == [200, 200]
    newer = save(run / "checkpoint", made(300))
    assert sorted((run / "checkpoint").iterdir()) == [path, newer]


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_and_every_cut_is_noticed_and_the_one_before_is_used(run, name) -> None:
    path = newest(run) / name
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        said: list[str] = []
        # White space of the manifest alone may change: it says the same.
        if loaded(run, said) == 200:
            assert json.loads(damaged) == json.loads(whole)
        else:
            (line,) = (line for text in said for line in text.splitlines())
            assert line.startswith("damaged checkpoint: ")
        path.write_bytes(whole[:place])
        assert loaded(run) == 100
    path.write_bytes(whole + b"x")
    assert loaded(run) == 100
    path.unlink()
    assert loaded(run) == 100
    os.mkfifo(path)  # opening it would wait for ever
    assert loaded(run) == 100


def test_names_that_are_almost_numbers_are_no_checkpoints(run) -> None:
    for name in ("²", "9" * 200, "٣" * 12, "300"):
        shutil.copytree(newest(run), run / "checkpoint" / name)
    assert saved_frames(run) == [200, 100]
    assert loaded(run) == 200


def test_a_kill_at_any_point_of_a_save_leaves_a_whole_checkpoint(run, monkeypatch) -> None:
    """Every call that changes the disk is the last one, in turn; no clean-up follows either."""

    class KilledError(BaseException):
        pass

    def counted(function):
        def call(*arguments, **more):
            nonlocal calls
            calls -= 1
            if calls < 0:
                raise KilledError
            return function(*arguments, **more)

        return call

    changing = (Path, "mkdir"), (Path, "rename"), (shutil, "rmtree"), (os, "fsync")
    changing = (*changing, (checkpoint, "save_file"))
    shutil.copytree(run, original := run.with_name("original"))
    for allowed in range(50):
        with monkeypatch.context() as patch, contextlib.suppress(KilledError):
            for where, name in changing:
                patch.setattr(where, name, counted(getattr(where, name)))
            calls = allowed
            save(run / "checkpoint", made(300 if allowed % 2 else 200))
            break
        assert loaded(run) in (100, 200, 300)
        shutil.rmtree(run)
        shutil.copytree(original, run)
    assert 12 < allowed < 49


@pytest.mark.parametrize("disk", ["1m"], indirect=True)
def test_a_full_disk_leaves_the_older_ones_whole(disk) -> None:
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


def test_a_read_only_disk_is_an_error_and_can_be_read(disk) -> None:
    save(disk / "checkpoint", made(100))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(OSError, match="Read-only"):
        save(disk / "checkpoint", made(200))
    assert loaded(disk) == 100
    with pytest.raises(UsageError, match="Read-only"), lock(disk):
        pass


def test_a_folder_that_was_moved_away_is_not_made_anew(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "gone" / "checkpoint", made(100))
    assert not (tmp_path / "gone").exists()


def test_a_manifest_of_another_version_or_without_a_part_is_refused(run) -> None:
    manifest = json.loads((newest(run) / "manifest.json").read_text())
    for name in ("version", "files", "sha256"):
        rest = {k: v for k, v in manifest.items() if k != name}
        (newest(run) / "manifest.json").write_text(json.dumps(rest))
        assert loaded(run) == 100
    small.sign(newest(run), lambda manifest: manifest | {"version": 2})
    said: list[str] = []
    assert loaded(run, said) == 100
    assert f"not of version {checkpoint.VERSION}" in said[0]


def test_a_folder_that_does_not_exist_is_named_with_the_nearest(tmp_path) -> None:
    (tmp_path / "first").mkdir()
    with pytest.raises(UsageError, match=r"frist: no such folder\. Did you mean first\?$"):
        load_latest(tmp_path / "frist", training=False, report=pytest.fail)
    with pytest.raises(UsageError, match=r"first: holds no checkpoint$"):
        load_latest(tmp_path / "first", training=False, report=pytest.fail)
