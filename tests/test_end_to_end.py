"""What a run of seconds on a real game leaves behind, how it is evaluated and filmed, and what its
agent saw."""

import json

import av
import numpy as np
import pytest

import evaluate
from agents.actor import Actor
from envs.episodes import EpisodeRecord, replay_colour, replay_grey
from envs.screens import KINDS
from tests import small


def test_evaluation_is_repeatable_true_and_filmed(copied) -> None:
    argv = [str(copied), *"--episodes 2 --seed 5 --epsilon 0.5 --threads 1 --video".split()]
    assert evaluate.main([*argv, "median"]) == 0
    (path,) = (copied / "eval").glob("*-v5-full0-e0.5-n2-s5.json")
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

    (film,) = (copied / "videos").glob("*median*.mp4")
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.codec_context.name) == (60, "h264")
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    lengths = [len([*replay_colour(record, every_frame=True)]) for record in records]
    assert len(decoded) in lengths
    # The red bricks, in colour.
    assert (np.abs(decoded[60].astype(int) - (200, 72, 72)).max(-1) < 20).any()


@pytest.mark.parametrize("kind", ["flicker", "delay"])
def test_the_replay_holds_what_the_agent_saw(kind, tmp_path, monkeypatch) -> None:
    seen, hidden, act, observe = [], [], Actor.act, KINDS[kind].__call__

    def act_and_note(actor, frame, *others):
        seen.append(frame.copy())  # [N, 84, 84]
        return act(actor, frame, *others)

    def observe_and_note(observer, frame, is_first):
        shown = observe(observer, frame, is_first)
        hidden.append((shown != frame).any())
        return shown

    def compare(run):
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
