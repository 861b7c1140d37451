import base64
import json
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from envs.episodes import MAX_ACTIONS, EpisodeRecord, _check, replay_colour, replay_grey
from envs.screens import parse_screen
from envs.tapes import Envs
from tests.envs.walk import WALK, refused, same


@cache
def played(game="breakout", rules="v5", screen="flicker"):
    """The first two episodes of one tape: record, frames [steps, 84, 84], rewards [steps]."""
    made = Envs(game, 2, rules, seed=2, observe=parse_screen(screen))
    rng, frame = np.random.default_rng(0), made.reset()[1]
    frames, rewards, out = [], [], []
    while len(out) < 2:
        frames.append(frame)
        made.send(rng.integers(made.num_actions, size=2))
        step = made.recv()
        rewards.append(step.reward[1])
        frame = step.frame[1]
        if step.is_first[1]:
            out.append((made.finished()[-1], np.stack(frames), np.array(rewards)))
            frames, rewards = [], []
    return out


@pytest.mark.parametrize(
    "of", [(), ("breakout", "dqn-2015", "delay"), (WALK, "own", "flicker")], ids=str
)
def test_an_episode_is_replayed_bit_for_bit(of, tmp_path) -> None:
    for record, frames, rewards in played(*of):
        record.save(tmp_path / "episode.json")
        record = EpisodeRecord.load(tmp_path / "episode.json")
        again, points = replay_grey(record)
        assert again.shape == (record.steps + 1, 84, 84)
        assert (again[:-1] == frames).all()
        assert (points == rewards).all()
        assert points.sum() == record.score


def test_an_episode_is_replayed_in_colour_step_by_step_and_frame_by_frame() -> None:
    record = played()[1][0]
    assert record.start > 0
    # Each checks score, start and end itself.
    steps, every = list(replay_colour(record)), list(replay_colour(record, every_frame=True))
    assert len(steps) == record.steps + 1
    assert 4 * record.steps - 3 <= len(every) - 1 <= 4 * record.steps  # the last may be cut short
    assert (steps[0].dtype, steps[0].shape) == (np.uint8, (210, 160, 3))
    assert all((steps[t] == every[4 * t]).all() for t in range(record.steps))


def test_an_episode_of_gymnasium_is_replayed_in_the_colours_that_it_renders() -> None:
    record = played(WALK, "own", "full")[1][0]
    colour = list(replay_colour(record, every_frame=True))
    assert (len(colour), colour[0].shape) == (record.steps + 1, (40, 80, 3))
    assert (colour[-1][:, 70:] == (255, 128, 0)).all() == record.terminated


@pytest.fixture
def record():
    return replace(played()[0][0], finished_at=123_456)


@pytest.fixture
def path(record, tmp_path):
    record.save(tmp_path / "episode.json")
    return tmp_path / "episode.json"


def test_a_record_is_a_few_kilobytes_with_a_header_in_clear(record, path) -> None:
    assert path.stat().st_size < 2000
    header = json.loads(path.read_text())
    for name in ("game", "score", "steps"):
        assert header[name] == getattr(record, name)
    assert [p.name for p in path.parent.iterdir()] == ["episode.json"]  # nothing temporary is left
    assert same(EpisodeRecord.load(path), record)


def test_a_full_disk_leaves_the_old_record_and_nothing_else(record, path, monkeypatch) -> None:
    def full(self, *_, **__):
        self.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        record.save(path)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == {path.name: before}


def test_an_episode_that_comes_out_otherwise_is_reported(record) -> None:
    for lie in (
        {"score": record.score + 1},
        {"terminated": False},
        {"start": record.start + 1, "steps": record.steps - 1},
        {"actions": record.actions[:-1], "steps": record.steps - 1},
    ):
        with pytest.raises(RuntimeError, match="breakout episode of score"):
            replay_grey(replace(record, **lie))


def refusal(path):
    with refused(f"^{path}: not a whole episode record: .{{,200}}$"):
        EpisodeRecord.load(path)


def test_foreign_and_cut_files_and_files_with_a_flipped_bit_are_refused_in_one_line(path) -> None:
    whole = path.read_bytes()
    cut = [whole[:size] for size in range(0, len(whole) - 2, 99)]  # the last two are "}\n"
    foreign = [*b"[]|null|{}|\x89PNG\r\n\xff".split(b"|"), b'{"format": 2}', b"1" * 5000]
    flipped = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    for content in (*cut, *foreign, b"[" * 100_000, *flipped):
        path.write_bytes(content)
        refusal(path)
    refusal(path.parent)  # a folder


def packed(actions):
    return base64.b64encode(zlib.compress(actions, 9)).decode()


@pytest.mark.parametrize(
    "change",
    [
        {"game": "brekout"},
        {"observe": {"kind": "flickr", "parameter": 0}},
        {"more": 1},
        {"steps": 10**18},
        {"actions": packed(b"\1"), "start": 0, "steps": 2},
        {"actions": packed(b"\4"), "start": 0, "steps": 1},  # out of range: the emulator would hang
        {"actions": packed(bytes(100 * MAX_ACTIONS))},
    ],
    ids=str,
)
def test_an_unplayable_record_with_a_right_checksum_is_refused(change, path) -> None:
    header = json.loads(path.read_text())
    del header["check"]
    header |= change
    path.write_text(json.dumps(header | {"check": _check(header)}))
    with pytest.raises(ValueError, match=r"record: (?!.*checksum)"):
        EpisodeRecord.load(path)


def test_records_of_the_past_can_be_loaded() -> None:
    paths = sorted((Path(__file__).parents[2] / "studies").glob("*/results/*/episode-*.json"))
    assert len(paths) > 50
    for path in paths[:: len(paths) // 20]:
        assert EpisodeRecord.load(path).score == json.loads(path.read_text())["score"]
