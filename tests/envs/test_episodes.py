import base64
import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from envs.episodes import MAX_ACTIONS, EpisodeRecord, _check, replay_colour, replay_grey
from envs.screens import Observe, parse_screen
from envs.tapes import Envs
from tests.envs.walk import WALK, same


def played(
    game: str, rules: str, how: Observe
) -> list[tuple[EpisodeRecord, np.ndarray, np.ndarray]]:
    """The first two episodes of one tape: record, frames [steps, 84, 84] and rewards [steps] as
    met."""
    made = Envs(game, 2, rules, seed=2, observe=how)
    rng = np.random.default_rng(0)
    frame = made.reset()[1]
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


@pytest.fixture(scope="module")
def episodes() -> list[tuple[EpisodeRecord, np.ndarray, np.ndarray]]:
    return played("breakout", "v5", parse_screen("flicker"))


@pytest.mark.parametrize(
    "other",
    [(), ("breakout", "dqn-2015", parse_screen("delay")), (WALK, "own", parse_screen("flicker"))],
)
def test_an_episode_is_replayed_bit_for_bit(other: tuple, episodes: list, tmp_path: Path):
    for record, frames, rewards in played(*other) if other else episodes:
        record.save(tmp_path / "episode.json")
        record = EpisodeRecord.load(tmp_path / "episode.json")
        again, points = replay_grey(record)
        assert again.shape == (record.steps + 1, 84, 84)
        assert (again[:-1] == frames).all()
        assert (points == rewards).all()
        assert points.sum() == record.score


def test_an_episode_is_replayed_in_colour_step_by_step_and_frame_by_frame(episodes: list):
    record = episodes[1][0]
    assert record.start > 0
    # Each checks score, start and end itself.
    steps, every = list(replay_colour(record)), list(replay_colour(record, every_frame=True))
    assert len(steps) == record.steps + 1
    # It stops when the game is over.
    assert 4 * record.steps - 3 <= len(every) - 1 <= 4 * record.steps
    assert steps[0].dtype == np.uint8
    assert steps[0].shape == (210, 160, 3)
    # The last step may be cut short.
    assert all((steps[t] == every[4 * t]).all() for t in range(record.steps))


def test_an_episode_of_gymnasium_is_replayed_in_the_colours_that_it_renders():
    (_, *_), (record, *_) = played(WALK, "own", Observe())
    colour = list(replay_colour(record, every_frame=True))
    assert len(colour) == record.steps + 1
    assert colour[0].shape == (40, 80, 3)
    assert (colour[-1][:, 70:] == (255, 128, 0)).all() == record.terminated


@pytest.fixture(scope="module")
def record(episodes: list) -> EpisodeRecord:
    return replace(episodes[0][0], finished_at=123_456)


@pytest.fixture
def path(record: EpisodeRecord, tmp_path: Path) -> Path:
    record.save(tmp_path / "episode.json")
    return tmp_path / "episode.json"


def test_a_record_is_a_few_kilobytes_with_a_header_in_clear(record: EpisodeRecord, path: Path):
    assert path.stat().st_size < 2000
    header = json.loads(path.read_text())
    assert (header["game"], header["score"], header["steps"]) == (
        "breakout",
        record.score,
        record.steps,
    )
    assert [p.name for p in path.parent.iterdir()] == ["episode.json"]  # nothing temporary is left
    assert same(EpisodeRecord.load(path), record)


def test_an_episode_that_comes_out_otherwise_is_reported(record: EpisodeRecord):
    for lie in (
        replace(record, score=record.score + 1),
        replace(record, terminated=False),
        replace(record, start=record.start + 1, steps=record.steps - 1),
        replace(record, actions=record.actions[:-1], steps=record.steps - 1),
    ):
        with pytest.raises(RuntimeError, match="breakout episode of score"):
            replay_grey(lie)


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match="not a whole episode record") as error:
        EpisodeRecord.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 300
    return str(error.value)


def test_foreign_and_cut_files_are_refused_and_a_flipped_byte_is_refused_or_changes_nothing(
    record: EpisodeRecord, path: Path
):
    whole = path.read_bytes()
    # The last two bytes are "}" and a new line.
    cut = [whole[:size] for size in range(0, len(whole) - 2, 99)]
    for content in (
        *cut,
        b"[]",
        b"null",
        b"{}",
        b"\x89PNG\r\n\xff",
        b"[" * 100_000,
        b'{"format": 2}',
        b"1" * 5000,
    ):
        path.write_bytes(content)
        refused(path)
    refused(path.parent)  # a folder
    unharmed = 0
    for place in range(0, len(whole), 9):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x20]) + whole[place + 1 :])
        try:
            assert same(EpisodeRecord.load(path), record)
            unharmed += 1
        except ValueError:
            pass
    assert unharmed < len(whole) / 90


def packed(actions: bytes) -> str:
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
def test_a_record_that_cannot_be_played_is_refused_though_its_checksum_is_right(
    change: dict, path: Path
):
    header = json.loads(path.read_text())
    del header["check"]
    header |= change
    path.write_text(json.dumps(header | {"check": _check(header)}))
    assert "checksum" not in refused(path)


def test_records_of_the_past_can_be_loaded():
    paths = sorted((Path(__file__).parents[2] / "studies").glob("*/results/*/episode-*.json"))
    assert len(paths) > 50
    for path in paths[:: len(paths) // 20]:
        record = EpisodeRecord.load(path)
        assert record.score == json.loads(path.read_text())["score"]
