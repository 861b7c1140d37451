"""Cells of a grid, and results of finished runs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiment.settings.config import UsageError, override, preset
from experiment.studies.study import Result, Study, changes, finished, make_cells
from tests.small import ROOT

COMMITTED = sorted((ROOT / "studies").glob("*/results/*.json"))


def test_every_committed_result_loads_and_its_settings_are_compared_in_todays_spelling() -> None:
    assert len(COMMITTED) >= 67
    for path in COMMITTED:
        result = Result.load(path)
        assert result is not None
        assert result.records == f"results/{path.stem}"
        assert result.mean == pytest.approx(sum(result.scores) / len(result.scores))
        assert (
            result.other_settings(
                override(preset(result.preset), {"game": result.game, "frames": 1})
            )
            is not None
        )
    result = Result.load(
        ROOT / "studies/what-memory-buys/results/drqn-frame_stack-1-breakout-flicker-0.5-s2.json"
    )
    assert result is not None
    lines = result.other_settings(
        override(preset("drqn"), {"game": "pong", "observe": "flicker:0.25"})
    )
    assert "--game breakout -> pong" in lines
    assert "--observe flicker:0.5 -> flicker:0.25" in lines
    assert not any(line.startswith(("--frames", "--threads", "--name")) for line in lines)


def test_a_damaged_result_is_refused_in_one_line_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    assert Result.load(path) is None
    damages = [
        {"scores": ["x"]},
        {"scores": []},
        {"mean": None},
        {"interval_95": [1]},
        {"machine": "fast"},
    ]
    for damage in [*damages, {"curve": [[400, "high", None, None]]}, {"training_seconds": [1]}]:
        path.write_text(json.dumps(json.loads(COMMITTED[0].read_text()) | damage))
        with pytest.raises(UsageError, match=str(path)) as caught:
            Result.load(path)
        assert "\n" not in str(caught.value)


def test_core_hours_are_training_time_times_threads() -> None:
    result = Result.load(COMMITTED[0])
    assert result is not None
    data = {"training_seconds": 1800.0, "machine": {"threads": 4}, "frames": 100, "settings": {}}
    data |= {"curve": [(50, 1.0, None, None), (100, 2.0, None, None)]}
    old = Result(**(vars(result) | data | {"curve_seconds": ()}))
    assert old.core_hours == 2.0
    # Times were not stored: in proportion to the frames.
    assert old.curve_x["core-hours"] == [1.0, 2.0]
    assert Result(**(vars(old) | {"curve_seconds": (450.0, 1800.0)})).curve_x["core-hours"] == [
        0.5,
        2.0,
    ]
    assert Result(**(vars(old) | {"training_seconds": None})).curve_x["core-hours"] == []


def test_a_result_finishes_a_cell_if_it_has_the_frames_and_the_rules(tmp_path: Path) -> None:
    study = Study(agents=("dqn",), games=("breakout",), frames=2_000_000, out=tmp_path)
    (cell,) = make_cells(study, {})
    cell.result.parent.mkdir()
    path = ROOT / "studies/what-memory-buys/results/dqn-breakout-s1.json"
    cell.result.write_bytes(path.read_bytes())
    assert finished(cell, study) is not None
    for other in ({"episodes": 10}, {"epsilon": 0.01}, {"eval_seed": 1}):
        assert finished(cell, replace(study, **other)) is None
    longer, shorter = (make_cells(replace(study, frames=n), {})[0] for n in (3_000_000, 1_000_000))
    assert finished(longer, study) is None
    with pytest.raises(UsageError, match="more than --frames 1,000,000"):
        finished(shorter, study)


def test_a_cell_is_a_runs_settings_with_one_thread_unless_asked_otherwise() -> None:
    study = Study(
        agents=("drqn:core=gru,hidden=32",),
        games=("pong",),
        observe=("flicker",),
        seeds=2,
        frames=8_000,
    )
    first, second = make_cells(study, {"discount": 0.9})
    config = first.config
    assert (config.core, config.hidden, config.discount, config.threads) == ("gru", 32, 0.9, 1)
    assert (config.game, config.observe, config.frames, config.seed) == (
        "pong",
        "flicker:0.5",
        8_000,
        1,
    )
    assert first.name == "drqn-core-gru-hidden-32-pong-flicker-0.5-s1"
    assert changes(config, second.config) == {"seed": "--seed 1 -> 2"}


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"agents": ("drqm",)}, "drqn?"),
        ({"agents": ("dqn", "dqn")}, "the same run is given twice"),
        ({"agents": ("dqn:frame_stack=4", "dqn")}, "the same run is given twice"),
        ({"observe": ("flicker", "flicker:0.5")}, "the same run is given twice"),
        ({"agents": ("drqn:core",)}, "--core"),
        ({"agents": ("drqn:coree=gru",)}, "--core?"),
        ({"agents": ("drqn:core=gruu",)}, "gru?"),
        ({"agents": ("dqn:seed=2",)}, "--seed is set by the grid"),
        ({"agents": ("dqn:core_size=9",)}, "no effect"),
        ({"agents": ("dqn:hidden=1,hidden=2",)}, "given twice"),
        ({"games": ("brekout",)}, "breakout"),
        ({"observe": ("flikker:0.5",)}, "flicker"),
        ({"seeds": 0}, "--seeds 0"),
    ],
)
def test_a_wrong_grid_is_refused(fields: dict, part: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_cells(Study(**fields), {})
    assert part in str(caught.value)
