"""A run's schedule: how often it learns, what its rows hold, when it stops for want of memory."""

import io
import json
import re
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from agents.actor import Actor
from agents.ring import BLOCK, ROW, Stretch
from envs.screens import KINDS
from experiment import build
from experiment.runs.console import Display, text
from experiment.runs.meter import Counters, Meter
from experiment.runs.run import Run
from experiment.runs.trackers import NAMES
from experiment.settings.cli import parse_train
from experiment.settings.config import Config, UsageError, load, override, preset
from experiment.store.checkpoint import load_latest
from tests import small
from tests.experiment.test_build import plain_rows

FULL = dict(num_envs=4, replay_rows=5_000, frames=60_000)
THREE = dict(num_envs=3, replay_rows=600, start_rows=0, batch_size=5, frames=24_000)
SEVEN = dict(num_envs=7, replay_rows=2_000, start_rows=1_000, batch_size=32, frames=28_000)
SHORT = dict(num_envs=3, replay_rows=400, batch_size=2, unroll=5, burn_in=2, n_step=1, frames=2_400)
ACTORS = dict(num_envs=4, replay_rows=1_200, start_rows=0, batch_size=4, samples_per_step=1.0)
ACTORS |= dict(frames=9_600)
THREE_ACTORS = dict(num_envs=24, actors=3, replay_rows=3_492, start_rows=2_933, frames=20_480)
THREE_ACTORS |= dict(batch_size=32, unroll=9, burn_in=7, n_step=3, sequence_stride=5)
THREE_ACTORS |= dict(frame_stack=10, samples_per_step=0.25)
SHORT |= dict(sequence_stride=4, samples_per_step=1.0)
# Settings of a run -> rows of all envs when learning begins, updates at the end.
UPDATES: list[tuple[dict[str, Any], int, int]] = [
    # 4 envs, a ring of 5000 / 4 / 8 whole blocks = 1248 times: full at 4992 rows;
    # 4 x (15000 - 4992) / 64 = 625.5
    (FULL | dict(start_rows=4_992), 4_992, 625),
    (FULL | dict(start_rows=5_000), 4_992, 625),
    (FULL | dict(start_rows=4_988), 4_988, 625),  # 625.75
    # The first sequence of 8 + 16 + 1 rows is whole when 3 envs have made 1 stride and 25 steps:
    # 33 x 3 = 99 rows; 0.7 x (6000 - 99) / 80 = 51.6
    (THREE | dict(samples_per_step=0.7), 99, 51),
    # 7 envs: 1001 is the first multiple of 7 from 1000 on; 2.3 x (7000 - 1001) / (32 x 16) = 26.9
    (SEVEN | dict(samples_per_step=2.3), 1_001, 26),
    # 1 x (600 - 384) / 10 = 21.6, from a full ring on: 128 times of 3 envs
    (SHORT | dict(start_rows=384), 384, 21),
    (SHORT | dict(start_rows=400), 384, 21),
    # The seven images of a row begin 6 rows earlier: a sequence of 2 + 5 + 1 rows from row 6 on is
    # whole after 14 steps; (600 - 42) / 10 = 55.8
    (SHORT | dict(start_rows=0, frame_stack=7, sequence_stride=3), 42, 55),
    # 102 is the first multiple of 3 from 101 on; 0.1 x (600 - 102) / 10 = 4.98
    (SHORT | dict(start_rows=101, samples_per_step=0.1), 102, 4),
    # Two actors send 16 rows of 2 envs in turn: the 33 rows of 1 stride and a sequence come with
    # the third stretch of an actor, the fifth of all; (2400 - 160) / 64 = 35
    (ACTORS | dict(actors=2), 160, 35),
    # 512 = 16 stretches are the first from 500 rows on; (2400 - 512) / 64 = 29.5
    (ACTORS | dict(actors=2, start_rows=500), 512, 29),
    # Whole strides of 5 and blocks of 8: 80 rows, with a sequence in the first;
    # 0.1 x (2400 - 80) / 64 = 3.6
    (ACTORS | dict(actors=4, sequence_stride=5, samples_per_step=0.1), 80, 3),
    # Stretches of 80 rows of 8 envs; the ring of 120 times of the first of three actors is full
    # with its second stretch, the fourth of all; 0.25 x (5120 - 2560) / 288 = 2.2
    (THREE_ACTORS, 2_560, 2),
]


def without_content(config: Config) -> Iterator[Any]:
    """Rows of all envs, or the stretches of the actors in turn."""
    actors, times = max(config.actors, 1), build.stretch_rows(config)
    lanes = config.num_envs // actors
    rows, state = (
        np.zeros((times, lanes), ROW),
        np.zeros((times // config.sequence_stride, lanes, 0)),
    )
    blocks, frames = np.full((times // BLOCK, lanes), b""), np.zeros((lanes, 84, 84), np.uint8)
    for ring in cycle(range(actors)):
        stretch = Stretch(ring, times, rows, state, blocks, np.empty(0))
        yield stretch if config.actors else plain_rows(frames)


@pytest.mark.parametrize(("changes", "first", "updates"), UPDATES)
def test_updates_are_samples_per_step_times_steps_and_a_run_too_short_for_one_is_refused(
    changes, first, updates
) -> None:
    config = override(preset("drqn"), {"burn_in": 8} | changes)
    run: Any = Run.__new__(Run)  # its schedule alone
    run.config, run.counters, run.learner = config, Counters(), SimpleNamespace(updates=0)
    run.replay = build.make_replay(config, 0)
    incoming, run.task = without_content(config), SimpleNamespace(frame_skip=4)
    size, least = config.batch_size * config.unroll, 0
    for run.player in incoming:  # the rows under way; of a player the schedule reads `steps`
        if run.frames >= config.frames:
            break
        run.learner.updates += run.updates_due()
        least = least or bool(run.learner.updates) * (run.frames + 1)
        run.replay.append(run.player)
        run.counters.frames += 4 * run.player.steps
        if (since := run.counters.learning_since) is not None:
            steps = (run.frames - since) / 4
            assert run.learner.updates == int(config.samples_per_step * steps // size)
    assert (run.counters.learning_since, run.learner.updates) == (4 * first, updates)
    build.check_config(override(config, {"frames": least}))
    says = rf"^--frames {least - 1}: the first update comes at frame {least}, "
    with pytest.raises(UsageError, match=says):
        build.check_config(override(config, {"frames": least - 1}))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return small.start(tmp_path_factory.mktemp("runs"), "run", eval_frames=1_600)


def test_config_yaml_holds_the_settings_given_and_starts_the_same_run(finished, tmp_path) -> None:
    given, _ = parse_train(small.words(finished.parent, eval_frames=1_600))
    assert load(finished / "config.yaml") == given
    words = ["--config", str(finished / "config.yaml"), "--runs-dir", str(tmp_path)]
    assert small.train_program.main(words) == 0
    assert small.differences(finished, tmp_path / "run") == []


def all_rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_documented_metrics_are_those_of_a_run(finished) -> None:
    table = (small.ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    lines = table.partition("| with `--actors`")[0].splitlines()
    cells = [line.split("|")[1:3] for line in lines if line.startswith("| `")]
    words = [[re.findall(r"`(.+?)`", cell) for cell in pair] for pair in cells]
    names = {name: others for ours, others in words for name in ours}
    assert {name for row in all_rows(finished) for name in row} == set(names)
    assert {name: others[0] for name, others in names.items() if others} == NAMES


def test_the_rows_announced_are_those_that_the_replay_holds(tmp_path, capsys) -> None:
    """Of 249 rows, 2 envs have 120 times each, in blocks of 8."""
    small.start(tmp_path, "run", replay_rows=249, start_rows=249)
    out = " ".join(capsys.readouterr().out.split())
    assert "replay 240 rows, about" in out


def test_an_evaluation_shows_how_far_it_is(tmp_path, monkeypatch) -> None:
    shown = []
    monkeypatch.setattr(Display, "show", lambda display, row: shown.append(row))
    folder = small.start(tmp_path, "run", frames=800, eval_frames=800)
    (record,) = folder.glob("eval/*/episode-000.json")
    steps = json.loads(record.read_text())["steps"]
    lines = [row["evaluated"] for row in shown if "evaluated" in row]
    score = next(row["eval_score"] for row in shown if "eval_score" in row)
    assert lines[0] == "0 of 1 episodes  1 steps"
    assert lines[-1] == f"1 of 1 episodes  mean {score:.1f}  {steps:,} steps"
    assert "evaluated" not in (folder / "metrics.jsonl").read_text()


def test_a_row_adds_up(finished) -> None:
    rows = all_rows(finished)
    last = [row for row in rows if "updates" in row][-1]
    # 1600 frames = 400 steps; learning began at 80 rows; 1 x (400 - 80) / (4 x 16) = 5 updates
    assert (last["frames"], last["steps"], last["updates"]) == (1_600, 400, 5)
    assert (last["samples"], last["samples_per_step"]) == (5 * 64, 5 * 64 / 320)
    # A ring of 240 / 2 = 120 times at time 200: the block that begins there takes the place of
    # times 80 to 87.
    assert last["replay_rows"] == 2 * (200 - 88)
    assert last["replay_bytes"] > 2 * 8 * 84 * 84  # at least the block that is being filled
    assert 0 < sum(last[name] for name in small.TIMES) <= 1
    assert [row["eval_protocol"] for row in rows if "eval_score" in row] == ["v5"]


def test_speeds_are_over_the_training_time_since_the_row_before(tmp_path, monkeypatch) -> None:
    """Also after an evaluation or a resume between two rows."""
    with monkeypatch.context() as patch:
        small.at_frame(patch, 1_000, small.ask_to_stop)
        folder = small.start(tmp_path, "run", eval_frames=600)
    saved = load_latest(folder, training=False, report=pytest.fail).meta
    assert small.resume(folder) == 0
    rows = [row for row in all_rows(folder) if "updates" in row]
    seconds = {0: 0.0, saved["frames"]: saved["seconds"]} | {
        r["frames"]: r["seconds"] for r in rows
    }
    before = {400: 0, 800: 400, 1_200: 1_000, 1_600: 1_200}
    assert [row["frames"] for row in rows] == [*before]
    for row in rows:
        at, start = row["frames"], before[row["frames"]]
        taken = seconds[at] - seconds[start]
        assert (at - start) / row["frames_per_second"] == pytest.approx(taken, rel=0.01, abs=0.002)


def test_a_new_metric_of_the_learner_reaches_file_and_panel(tmp_path, monkeypatch) -> None:
    add = Meter.add_update

    def add_more(meter, metrics):
        add(meter, {**metrics, "new": metrics["loss"] * 2})

    monkeypatch.setattr(Meter, "add_update", add_more)
    rows = [row for row in small.rows(small.start(tmp_path, "run", frames=800)) if "loss" in row]
    assert [row["new"] for row in rows] == [2 * row["loss"] for row in rows] != []
    terminal = io.StringIO()
    with Display("run", 800, Console(force_terminal=True, width=200, file=terminal)) as panel:
        panel.show(rows[-1])
    assert f"new {text(rows[-1]['new'])}" in re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())


@pytest.mark.parametrize("kind", ["flicker", "delay"])
def test_the_replay_holds_what_the_agent_saw(kind, tmp_path, monkeypatch) -> None:
    seen, hidden, act, observe = [], [], Actor.act, KINDS[kind].observer.__call__

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
    monkeypatch.setattr(KINDS[kind].observer, "__call__", observe_and_note)
    small.at_frame(monkeypatch, 800, compare)
    small.start(tmp_path, "run", frames=800, observe=kind, replay_rows=600, frame_stack=1)
    assert any(hidden)


def test_a_run_that_made_no_update_says_so(tmp_path, monkeypatch, capsys) -> None:
    small.at_frame(monkeypatch, 80, small.ask_to_stop)
    small.start(tmp_path, "run")
    assert "stopped without one update: the agent is untrained" in capsys.readouterr().out


def test_a_run_short_of_memory_saves_and_stops(finished, tmp_path, monkeypatch, capsys) -> None:
    words = ["drqn", "--runs-dir", str(tmp_path), "--name", "run"]
    with monkeypatch.context() as patch:
        # Bytes; one block of raw frames takes 112,896.
        patch.setattr("experiment.runs.run.free_memory", lambda: 10_000)
        assert small.train_program.main([*words, *small.flags(eval_frames=1_600)]) == 2
    output = capsys.readouterr()
    assert output.out.count("warning: --replay-rows 240: a full replay needs") == 1
    (line,) = output.err.splitlines()
    assert "the run needs more memory; stopped without one update" in line
    assert "at 400 frames; go on with: python train.py --resume" in line
    assert small.resume(tmp_path / "run") == 0
    assert small.differences(finished, tmp_path / "run") == []
