"""Cells of a grid, and results of finished runs."""

import json
from dataclasses import replace

import pytest

from experiment.settings import config as settings
from experiment.settings.cli import parse_train
from experiment.settings.config import UsageError, override, preset
from experiment.studies.jobs import train_words
from experiment.studies.study import Result, Study, changes, finished, make_cells
from tests.small import ROOT

COMMITTED = sorted((ROOT / "studies").glob("*/results/*.json"))
MEMORY = ROOT / "studies/what-memory-buys/results"


def test_every_committed_result_loads_and_its_settings_are_compared_in_todays_spelling() -> None:
    assert len(COMMITTED) >= 67
    screens = set()
    for path in COMMITTED:
        result = Result.load(path)
        assert result.records == f"results/{path.stem}"
        assert result.mean == pytest.approx(sum(result.scores) / len(result.scores))
        screens.add(settings.from_dict(result.settings | {"preset": result.preset}, "").observe)
    assert screens == {"full", "flicker:0.5"}
    result = Result.load(MEMORY / "drqn-frame_stack-1-breakout-flicker-0.5-s2.json")
    other = dict(game="pong", observe="flicker:0.25")
    lines = result.other_settings(override(preset("drqn"), other))
    assert "--game breakout -> pong" in lines
    assert "--observe flicker:0.5 -> flicker:0.25" in lines
    assert not any(line.startswith(("--frames", "--threads", "--name")) for line in lines)


def test_a_setting_of_all_runs_is_left_at_its_default_where_it_has_no_effect(tmp_path) -> None:
    study = Study(agents=("dqn", "drqn"), out=tmp_path)
    dqn, drqn = make_cells(study, {"core_size": "8"})
    assert (dqn.config.core_size, drqn.config.core_size) == (256, 8)
    (path := tmp_path / "dqn.yaml").write_text(settings.to_yaml(dqn.config))
    assert parse_train(["--config", str(path)])[0] == dqn.config
    # Results of the past have it, and are of the same run.
    assert changes(override(dqn.config, {"core_size": 8}), dqn.config) == {}


@pytest.mark.parametrize("agent", ["dqn", "r2d2"])
def test_a_cell_starts_on_a_gpu_where_a_batch_has_no_parts(agent, tmp_path) -> None:
    (cell,) = make_cells(Study(agents=(agent,), out=tmp_path), {"device": "cuda"})
    cell.config.runs_dir.mkdir()
    assert parse_train(train_words(cell))[0] == cell.config


DAMAGES = dict(scores=["x"]), dict(scores=[]), dict(mean=None), dict(interval_95=[1])
DAMAGES += dict(machine="fast"), dict(curve=[[400, "high", None, None]]), dict(training_seconds=[1])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_refused_in_one_line_that_names_the_file(damage, tmp_path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(json.loads(COMMITTED[0].read_text()) | damage))
    with pytest.raises(UsageError, match=str(path)) as caught:
        Result.load(path)
    assert "\n" not in str(caught.value)


def test_core_hours_are_training_time_times_threads() -> None:
    data = dict(training_seconds=1800.0, machine={"threads": 4}, frames=100, curve_seconds=())
    curve = (50, 1.0, None, None), (100, 2.0, None, None)
    old = replace(Result.load(COMMITTED[0]), curve=curve, **data)
    assert old.core_hours == 2.0
    # Times were not stored: in proportion to the frames.
    assert old.curve_x["core-hours"] == [1.0, 2.0]
    assert replace(old, curve_seconds=(450.0, 1800.0)).curve_x["core-hours"] == [0.5, 2.0]
    assert replace(old, training_seconds=None).curve_x["core-hours"] == []


def test_a_result_finishes_a_cell_if_it_has_the_frames_and_the_rules(tmp_path) -> None:
    study = Study(agents=("dqn",), games=("breakout",), frames=2_000_000, out=tmp_path)
    (cell,) = make_cells(study, {})
    assert finished(cell, study) is None
    cell.result.parent.mkdir()
    cell.result.write_bytes((MEMORY / "dqn-breakout-s1.json").read_bytes())
    assert finished(cell, study) is not None
    for other in ({"episodes": 10}, {"epsilon": 0.01}, {"eval_seed": 1}):
        assert finished(cell, replace(study, **other)) is None
    longer, shorter = (make_cells(replace(study, frames=n), {})[0] for n in (3_000_000, 1_000_000))
    assert finished(longer, study) is None
    with pytest.raises(UsageError, match="more than --frames 1,000,000"):
        finished(shorter, study)
    # The last stretch of an actor may end later than a step of all envs: 2,000,000 % 1,024 is 128.
    longest = json.loads(cell.result.read_text()) | {"frames": 2_000_896}
    cell.result.write_text(json.dumps(longest))
    with pytest.raises(UsageError, match="more than --frames 2,000,000"):
        finished(cell, study)
    assert finished(replace(cell, config=replace(cell.config, actors=2)), study) is not None


def test_a_cell_is_a_runs_settings_with_one_thread_unless_asked_otherwise() -> None:
    grid = dict(agents=("drqn:core=gru,hidden=32",), games=("pong",), observe=("flicker",))
    first, second = make_cells(Study(seeds=2, frames=8_000, **grid), {"discount": 0.9})
    own = dict(core="gru", hidden=32, discount=0.9, threads=1, seed=1)
    own |= dict(game="pong", observe="flicker:0.5", frames=8_000)
    assert vars(first.config).items() >= own.items()
    assert first.name == "drqn-core-gru-hidden-32-pong-flicker-0.5-s1"
    assert changes(first.config, second.config) == {"seed": "--seed 1 -> 2"}


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ("agents=drqm", "drqn?"),
        ("agents=dqn dqn", "the same run is given twice"),
        ("agents=dqn:frame_stack=4 dqn", "the same run is given twice"),
        ("observe=flicker flicker:0.5", "the same run is given twice"),
        ("agents=drqn:core", "--core"),
        ("agents=drqn:coree=gru", "--core?"),
        ("agents=drqn:core=gruu", "gru?"),
        ("agents=dqn:seed=2", "--seed is set by the grid"),
        ("agents=dqn:core_size=9", "no effect"),
        ("agents=dqn:hidden=1,hidden=2", "given twice"),
        ("games=brekout", "breakout"),
        ("observe=flikker:0.5", "flicker"),
    ],
)
def test_a_wrong_grid_is_refused(grid, says) -> None:
    name, _, words = grid.partition("=")
    with pytest.raises(UsageError) as caught:
        make_cells(Study(**{name: tuple(words.split())}), {})
    assert says in str(caught.value)


def test_an_older_result_with_a_constant_learning_rate_differs_from_a_falling_one() -> None:
    result = Result.load(MEMORY.parents[1] / "four-million/results/dqn-breakout-s1.json")
    lines = result.other_settings(override(preset("dqn"), {"game": "breakout"}))
    assert "--learning-rate-updates 0 -> 32000" in lines
