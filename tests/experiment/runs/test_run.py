"""A run's schedule: how often it learns, what its rows hold, when it stops for want of memory."""

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from agents.rows import Rows
from experiment import build
from experiment.runs.console import Display, text
from experiment.runs.run import Counters, Run
from experiment.runs.trackers import NAMES
from experiment.settings.config import override, preset
from tests import small

# Settings of a run -> rows of all envs when learning begins, updates at the end.
UPDATES: list[tuple[dict[str, Any], int, int]] = [
    # 4 envs, a ring of 5000 / 4 / 8 whole blocks = 1248 times: full at 4992 rows; 4 x (15000 -
    # 4992) / 64 = 625.5
    ({"num_envs": 4, "replay_rows": 5_000, "start_rows": 5_000, "frames": 60_000}, 4_992, 625),
    # 625.75
    ({"num_envs": 4, "replay_rows": 5_000, "start_rows": 4_988, "frames": 60_000}, 4_988, 625),
    # The first sequence of 8 + 16 + 1 rows is whole when 3 envs have made 1 stride and 25 steps: 33
    # x 3 = 99 rows.
    (
        {
            "num_envs": 3,
            "replay_rows": 600,
            "start_rows": 0,
            "batch_size": 5,
            "frames": 24_000,
            "samples_per_step": 0.7,
        },
        99,
        51,
    ),  # 0.7 x (6000 - 99) / 80 = 51.6
    # 7 envs: 1001 is the first multiple of 7 from 1000 on; 2.3 x (7000 - 1001) / (32 x 16) = 26.9
    (
        {
            "num_envs": 7,
            "replay_rows": 2_000,
            "start_rows": 1_000,
            "batch_size": 32,
            "frames": 28_000,
            "samples_per_step": 2.3,
        },
        1_001,
        26,
    ),
]


@pytest.mark.parametrize(("changes", "begun", "updates"), UPDATES)
def test_updates_are_samples_per_step_times_steps_from_the_first_to_the_last_step(
    changes: dict[str, Any], begun: int, updates: int
):
    config = override(preset("drqn"), {"burn_in": 8} | changes)
    lanes = config.num_envs
    run = Run.__new__(Run)  # its schedule alone
    run.config, run.counters, run.learner = config, Counters(), SimpleNamespace(updates=0)  # type: ignore[assignment]
    run.replay = build.make_replay(config, 0)
    run.task, run.player = SimpleNamespace(frame_skip=4), SimpleNamespace(steps=lanes)  # type: ignore[assignment]
    none, zero = np.zeros(lanes, bool), np.zeros(lanes, np.float32)
    rows = Rows(
        np.zeros((lanes, 84, 84), np.uint8),
        none,
        np.zeros(lanes, int),
        zero,
        none,
        none,
        np.zeros((lanes, 0)),
    )
    while run.frames < config.frames:
        run.learner.updates += run.updates_due()
        run.replay.append(rows)
        run.counters.frames += 4 * lanes
        if (since := run.counters.learning_since) is not None:
            steps = (run.frames - since) / 4
            assert run.learner.updates == int(
                config.samples_per_step * steps // (config.batch_size * config.unroll)
            )
    assert (run.counters.learning_since, run.learner.updates) == (4 * begun, updates)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.start(tmp_path_factory.mktemp("runs"), "run", eval_frames=1_600)


def test_the_documented_metrics_are_those_of_a_run(finished: Path):
    text = (
        (small.ROOT / "docs" / "metrics.md")
        .read_text(encoding="utf-8")
        .partition("| with `--actors`")[0]
    )
    cells = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `")]
    names = {
        name: re.findall(r"`(.+?)`", other)
        for names, other in cells
        for name in re.findall(r"`(.+?)`", names)
    }
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert {name for row in rows for name in row} == set(names)
    assert {name: other[0] for name, other in names.items() if other} == NAMES


def test_a_row_adds_up(finished: Path):
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
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


def test_a_metric_of_the_learner_reaches_the_file_and_the_panel_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    record = Run.record_update
    monkeypatch.setattr(
        Run,
        "record_update",
        lambda run, metrics: record(run, {**metrics, "new": metrics["loss"] * 2}),
    )
    rows = small.rows(small.start(tmp_path, "run", frames=800))
    assert (
        [row["new"] for row in rows if "loss" in row]
        == [2 * row["loss"] for row in rows if "loss" in row]
        != []
    )
    with Display("run", 800, Console(force_terminal=True, width=200, file=io.StringIO())) as panel:
        panel.show(rows[-1])
    assert f"new {text(rows[-1]['new'])}" in re.sub(
        r"\x1b\[[0-9;]*m", "", panel.console.file.getvalue()
    )  # type: ignore


def test_a_run_that_made_no_update_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    small.at_frame(monkeypatch, 80, small.ask_to_stop)
    small.start(tmp_path, "run")
    assert "stopped without one update: the agent is untrained" in capsys.readouterr().out


def test_a_run_that_is_short_of_memory_warns_stops_with_a_checkpoint_and_can_be_resumed(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    with monkeypatch.context() as patch:
        # Bytes; one block of raw frames takes 112,896.
        patch.setattr("experiment.runs.run.free_memory", lambda: 10_000)
        words = [
            "drqn",
            "--runs-dir",
            str(tmp_path),
            "--name",
            "run",
            *small.flags(eval_frames=1_600),
        ]
        assert small.train_program.main(words) == 2
    said = capsys.readouterr()
    assert said.out.count("warning: --replay-rows 240: a full replay needs") == 1
    assert "stopped at" in said.err
    assert len(said.err.splitlines()) == 1
    assert small.resume(tmp_path / "run") == 0
    assert small.differences(finished, tmp_path / "run") == []
