"""A run of seconds on a real game through the two commands: train, stop, go on, evaluate, watch."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import yaml

import evaluate
import train
from agents.actor import Actor
from agents.networks import QNetwork
from envs.episodes import EpisodeRecord, replay_colour, replay_grey
from envs.screens import KINDS, Observer
from experiment.runs.run import Run
from experiment.settings.config import override, preset
from tests import small

TINY = {"game": "pong", "num_envs": 3, "hidden": 16, "core_size": 8, "replay_rows": 900, "start_rows": 90, "unroll": 4,
        "batch_size": 2, "samples_per_step": 4.0, "eval_frames": 2_400, "log_frames": 600, "seed": 3}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert train.main(["drqn", "--runs-dir", str(runs), *small.flags(**TINY, frames=2_400)]) == 0
    return runs / "drqn-pong-s3"


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_training_leaves_a_whole_folder(run: Path) -> None:
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert (written["game"], written["seed"], written["frames"]) == ("pong", 3, 2400)
    frames = [row["frames"] for row in rows(run) if "loss" in row or "return_mean" in row]
    assert frames == [600, 1200, 1800, 2400]  # every 600 frames, 12 frames a step of 3 envs
    last = next(row for row in reversed(rows(run)) if "updates" in row)
    assert last["steps"] == 600
    assert last["updates"] == (600 - 90) * 4 / (2 * 4)  # learning starts at 90 rows
    assert last["samples"] == last["updates"] * 8
    assert np.isfinite(last["loss"])
    scores = [row["eval_score"] for row in rows(run) if "eval_score" in row]
    assert len(scores) == 1
    assert -21 <= scores[0] <= 21


def test_evaluation_is_repeatable_true_and_filmed(run: Path) -> None:
    argv = [str(run), "--episodes", "2", "--seed", "5", "--threads", "1", "--video", "median"]
    assert evaluate.main(argv) == 0
    path = next(path for path in (run / "eval").glob("*-v5-full0-e0.001-n2-s5.json"))
    first = json.loads(path.read_text())
    assert evaluate.main([*argv[:-1], "none"]) == 0
    assert json.loads(path.read_text()) == first
    assert first["mean"] == np.mean(first["scores"])
    assert first["random_score"] == -20.7

    record = EpisodeRecord.load(path.with_suffix("") / "episode-000.json")
    assert (path.with_suffix("") / "episode-000.json").stat().st_size < 10_000
    frames, rewards = replay_grey(record)
    assert frames.shape == (record.steps + 1, 84, 84)
    assert rewards.sum() == record.score == first["scores"][0]

    film = next((run / "videos").glob("*median*.mp4"))
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 60
        assert stream.codec_context.name == "h264"
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    shown = [i for i in range(2) if film.stem.endswith(f"{first['scores'][i]:g}")]  # both, if they score the same
    records = [EpisodeRecord.load(path.with_suffix("") / f"episode-{i:03d}.json") for i in shown]
    lengths = {sum(1 for _ in replay_colour(record, every_frame=True)): record.steps for record in records}
    assert len(decoded) >= 4 * lengths[len(decoded)] - 3
    field = decoded[60][100:380, 20:300].reshape(-1, 3).astype(int)
    assert np.abs(np.median(field, axis=0) - (144, 72, 17)).max() < 12  # Pong's brown, in colour


def test_evaluation_under_flicker_hides_the_screen_from_the_agent(run: Path) -> None:
    argv = [str(run), "--episodes", "1", "--threads", "1", "--video", "none"]
    assert evaluate.main([*argv, "--observe", "flicker:1"]) == 0
    path = next((run / "eval").glob("*-v5-flicker1-*.json"))
    frames, _ = replay_grey(EpisodeRecord.load(path.with_suffix("") / "episode-000.json"))
    assert not frames.any()


@pytest.mark.parametrize("kind", ["flicker", "delay"])
def test_the_replay_holds_what_the_agent_saw(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    small.at_frame(monkeypatch, 1_200, compare)
    small.start(tmp_path, "run", frames=1_200, observe=kind, start_rows=150, replay_rows=600)
    assert any(hidden)


def test_a_finished_run_can_be_made_longer(run: Path) -> None:
    before = rows(run)
    assert train.main(["--resume", str(run), "--frames", "3000"]) == 0
    after = rows(run)
    assert after[: len(before)] == before
    assert after[-1]["frames"] == 3000


def test_before_it_starts_it_says_what_it_will_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "train", lambda *_: None)
    assert train.main(["drqn", "--runs-dir", str(tmp_path), *small.flags(**TINY, frames=8_000_000)]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["game"] == "pong, protocol v5, seed 3, observe full"
    network = QNetwork(6, override(preset("drqn"), {"torso": "dqn-2013", "hidden": 16, "core_size": 8}))
    assert f"{sum(p.numel() for p in network.parameters()):,} parameters, 6 actions" in said["network"]
    assert said["replay"].startswith("900 rows, about 0.00 GB")
    assert said["learning"] == "4 samples a step, 2 x 4 rows an update"
    assert said["device"].startswith("cpu, ")
    assert said["length"].startswith("8,000,000 frames")
