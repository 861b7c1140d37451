"""What a run of seconds on a real game leaves behind, how it is evaluated and filmed, and what its
agent saw."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import yaml

import evaluate
import train
from agents.actor import Actor
from envs.episodes import EpisodeRecord, replay_colour, replay_grey
from envs.screens import KINDS, Observer
from experiment.runs.run import Run
from tests import small


@pytest.fixture(scope="module")
def run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("runs") / "run"))


def test_training_leaves_a_whole_folder(run: Path) -> None:
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert (written["game"], written["seed"], written["frames"]) == ("breakout", 1, 1_600)
    rows = small.rows(run)
    assert [row["frames"] for row in rows] == [400, 800, 1_200, 1_600]
    assert rows[-1]["steps"] == 400  # 4 frames each
    assert rows[-1]["updates"] == (400 - 80) * 1 / (4 * 16)  # learning starts at 80 rows
    assert rows[-1]["samples"] == rows[-1]["updates"] * 4 * 16
    assert np.isfinite(rows[-1]["loss"])


def test_evaluation_is_repeatable_true_and_filmed(run: Path) -> None:
    argv = [
        str(run),
        "--episodes",
        "2",
        "--seed",
        "5",
        "--epsilon",
        "0.5",
        "--threads",
        "1",
        "--video",
    ]
    assert evaluate.main([*argv, "median"]) == 0
    path = next((run / "eval").glob("*-v5-full0-e0.5-n2-s5.json"))
    first = json.loads(path.read_text())
    assert evaluate.main([*argv, "none"]) == 0
    assert json.loads(path.read_text()) == first
    assert first["mean"] == np.mean(first["scores"])
    assert first["random_score"] == 1.7

    files = [path.with_suffix("") / f"episode-{i:03d}.json" for i in range(2)]
    records = [EpisodeRecord.load(file) for file in files]
    frames, rewards = replay_grey(records[0])
    assert files[0].stat().st_size < 10_000
    assert frames.shape == (records[0].steps + 1, 84, 84)
    assert rewards.sum() == records[0].score == first["scores"][0]

    film = next((run / "videos").glob("*median*.mp4"))
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.codec_context.name) == (60, "h264")
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(decoded) in [
        sum(1 for _ in replay_colour(record, every_frame=True)) for record in records
    ]
    # The red bricks, in colour.
    assert (np.abs(decoded[60].astype(int) - (200, 72, 72)).max(-1) < 20).any()


def test_evaluation_under_flicker_hides_the_screen_from_the_agent(run: Path) -> None:
    argv = [str(run), "--episodes", "1", "--epsilon", "0.5", "--threads", "1", "--video", "none"]
    assert evaluate.main([*argv, "--observe", "flicker:1"]) == 0
    path = next((run / "eval").glob("*-v5-flicker1-*.json"))
    frames, _ = replay_grey(EpisodeRecord.load(path.with_suffix("") / "episode-000.json"))
    assert not frames.any()


@pytest.mark.parametrize("kind", ["flicker", "delay"])
def test_the_replay_holds_what_the_agent_saw(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, hidden, act, observe = [], [], Actor.act, KINDS[kind].__call__

    def act_and_note(actor: Actor, frame: np.ndarray, *others: np.ndarray) -> np.ndarray:
        seen.append(frame.copy())  # [N, 84, 84]
        return act(actor, frame, *others)

    def observe_and_note(observer: Observer, frame: np.ndarray, is_first: bool) -> np.ndarray:
        shown = observe(observer, frame, is_first)
        hidden.append(bool((shown != frame).any()))
        return shown

    def compare(run: Run) -> None:
        batch = run.replay.sample(32)
        start, lane = np.divmod(batch.origin, run.config.num_envs)
        for i, (time, env) in enumerate(zip(start * run.config.sequence_stride, lane, strict=True)):
            frames = batch.inputs.frames[:, i].numpy()  # [L, 84, 84]
            assert (frames == np.stack(seen[time : time + len(frames)])[:, env]).all()

    monkeypatch.setattr(Actor, "act", act_and_note)
    monkeypatch.setattr(KINDS[kind], "__call__", observe_and_note)
    small.at_frame(monkeypatch, 800, compare)
    small.start(tmp_path, "run", frames=800, observe=kind, replay_rows=600, frame_stack=1)
    assert any(hidden)


def test_before_it_starts_it_says_what_it_will_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "train", lambda *_: None)
    folder = small.start(tmp_path, "run", frames=8_000_000)
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert folder.is_dir()
    assert said["game"] == "breakout, protocol v5, seed 1, observe full"
    assert said["network"].endswith(" parameters, 4 actions")
    assert said["replay"].startswith("240 rows, about 0.00 GB")
    assert said["learning"] == "1 samples a step, 4 x 16 rows an update"
    assert said["device"].startswith("cpu, ")
    assert said["length"].startswith("8,000,000 frames")
