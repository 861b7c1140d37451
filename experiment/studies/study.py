"""A study: a grid of runs, and the result of each finished run.

A result lies in results/NAME.json, some KB, with the records of its best and its median episode
beside it. A report needs no more of the run, so results of several machines can be put together.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AliasChoices, ConfigDict, Field, FiniteFloat, TypeAdapter
from pydantic.dataclasses import dataclass

from agents.fields import FORBID, Count, Share
from experiment import build
from experiment.runs.session import FREE_ON_RESUME
from experiment.scores.agent import open_agent
from experiment.scores.evaluation import middle_and_best, record_name
from experiment.settings.cli import given
from experiment.settings.config import (
    Config,
    Episodes,
    Folder,
    Game,
    Screen,
    Seed,
    Settings,
    UsageError,
    Words,
    check_effect,
    differences,
    file_name,
    flag,
    from_dict,
    idle,
    named,
    of_this_version,
    override,
    preset,
    to_dict,
    without_effect,
)
from experiment.store.checkpoint import load_latest
from experiment.store.files import read, refused, write_json
from experiment.store.metrics import read_rows

# Settings that no agent can override.
OF_THE_GRID = ("preset", "game", "observe", "seed", "name", "runs_dir")


@dataclass(frozen=True, config=FORBID)
class Study(Settings):
    """Compare agents on games over seeds: the same frames and the same trained samples for all."""

    agents: Words = ("dqn", "drqn")
    """Presets, with overrides after a colon: drqn:core=gru,frame_stack=2. Up to four
    are compared with each other, more with the first one."""
    games: Annotated[tuple[Game, ...], Field(strict=False)] = ("breakout",)
    """Games."""
    observe: Annotated[tuple[Screen, ...], Field(strict=False)] = ("full",)
    """The agents' view, in training and evaluation: full, flicker:0.5, delay:2, ..."""
    seeds: Annotated[int, Field(ge=1, le=1000)] = 1
    """Runs of each agent on each game and screen, with the seeds 1, 2, ..."""
    frames: Count = 4_000_000
    """Length of each run, in emulator frames."""
    out: Folder = Path("studies/latest")
    """The study's folder, of report.md, report.html, figures, results, and the runs in runs/."""
    question: str = ""
    """The study's question, the title of the report. Empty: a question made from the grid."""
    jobs: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Runs at a time, each with one thread unless --threads says otherwise. None: one for each
    core; with --ray as many as the cluster has room for. 0: only report the finished runs."""
    ray: Annotated[str, Field(json_schema_extra={"alone": "local"})] = ""
    """Train on a Ray cluster (docs/scale.md): auto or HOST:PORT joins one; local, the value of
    --ray alone, starts one on this machine."""
    cpus_per_run: Annotated[int, Field(ge=1)] = 1
    """With --ray: cores that each run reserves, and its threads unless --threads says otherwise."""
    gpus_per_run: Annotated[float, Field(ge=0)] = 0.0
    """With --ray: GPUs that each run reserves, for --device cuda; 0.5 lets two runs share one."""
    episodes: Episodes = 30
    """Whole episodes that score each finished run."""
    epsilon: Share = 0.001
    """Probability of a random action in those episodes."""
    eval_seed: Seed = 1000
    """Seed of those episodes, the same for all runs."""
    video: Literal["best", "median", "all", "none"] = "best"
    """Episodes of each run to film at full length. none: the report has no short films either."""
    allow_unfair: bool = False
    """Compare agents with unequal budgets or unequal rules; the report says so."""


@dataclass(frozen=True)
class Cell:
    """One run of a study: its agent, as named in the grid, and its settings."""

    agent: str
    config: Config

    @property
    def name(self) -> str:
        """The run's name, unique in the study."""
        return self.config.name

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.config.runs_dir / self.name

    @property
    def expected_bytes(self) -> int:
        """The memory that the run needs, estimated."""
        return sum(build.expected_bytes(self.config).values())

    @property
    def log(self) -> Path:
        """The file with the output of training and evaluation."""
        return self.config.runs_dir / f"{self.name}.log"

    @property
    def result(self) -> Path:
        """The file of the result; the folder of the same stem has the records of two episodes."""
        return self.config.runs_dir.parent / "results" / f"{self.name}.json"


def make_cells(study: Study, shared: Mapping[str, Any]) -> list[Cell]:
    """All runs of the grid, seed after seed, each with the settings `shared`.

    UsageError on a wrong setting, and if two cells are the same run.
    """
    cells: list[Cell] = []
    first: dict[object, Cell] = {}
    defaults = {
        "threads": study.cpus_per_run,
        "parts": 1,
        **shared,
        "frames": study.frames,
        "runs_dir": study.out / "runs",
    }
    for seed, screen, game, agent in product(
        range(1, study.seeds + 1), study.observe, study.games, study.agents
    ):
        start, overrides = _overrides(agent)
        name = file_name("-".join([agent, game, *[screen] * (screen != "full"), f"s{seed}"]))
        place = {"game": game, "observe": screen, "seed": seed, "name": name}
        config = override(preset(start), {**defaults, **overrides, **place})
        check_effect(config, overrides)
        for setting in defaults:  # those without effect here: train.py would refuse them
            if idle(config, setting):
                config = replace(config, **{setting: getattr(preset(start), setting)})
        cell = Cell(agent, config)
        for key in (name, replace(cell.config, name="", preset="drqn")):
            if (other := first.setdefault(key, cell)) is not cell:
                words = " and ".join(
                    f"--agents {c.agent} --games {c.config.game} --observe {c.config.observe}"
                    for c in (other, cell)
                )
                raise UsageError(f"{words}: the same run is given twice")
        cells.append(cell)
    for name in shared:  # a setting must have an effect for one agent at least
        request = {name: shared[name]}
        lines = [without_effect(override(cell.config, request), request) for cell in cells]
        if all(lines):
            raise UsageError(lines[0][0])
    return cells


def _overrides(agent: str) -> tuple[str, dict[str, Any]]:
    """drqn:core=gru -> drqn, {"core": "gru"}. UsageError names the agent."""
    start, _, words = agent.partition(":")
    with named(f"--agents {agent}"):
        overrides = given("", [f"--{word}" for word in words.split(",") if word], Config())
    for name in overrides.keys() & OF_THE_GRID:
        raise UsageError(f"--agents {agent}: {flag(name)} is set by the grid; see --help")
    return start, overrides


# --- results --------------------------------------------------------------------------------------


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class Result:
    """The result of a finished run. Files of earlier versions load too."""

    agent: Annotated[str, Field(validation_alias=AliasChoices("agent", "arm"))]
    """Preset and overrides, as in the grid."""
    game: str
    screen: str
    seed: int
    parameters: int
    """Of the network."""
    frames: int
    """Emulator frames of training."""
    samples: int | None
    """Trained rows. 0: the agent is untrained. None: its last metrics are lost."""
    samples_per_step: FiniteFloat
    training_seconds: FiniteFloat | None
    machine: dict[str, str | int | float | None]
    protocol: str
    epsilon: FiniteFloat
    eval_seed: int
    mean: FiniteFloat
    interval_95: tuple[FiniteFloat | None, FiniteFloat | None]
    """Student's t interval of the mean over the episodes."""
    scores: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]
    """True scores of the final episodes."""
    curve: tuple[tuple[int, FiniteFloat, FiniteFloat | None, FiniteFloat | None], ...]
    """Evaluations during training: frames, mean, interval."""
    curve_episodes: int
    curve_seconds: tuple[FiniteFloat, ...] = ()
    """Training time at each evaluation; empty in files of earlier versions."""
    preset: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    """The settings that decide the results of the computation."""
    metrics: dict[str, FiniteFloat | None] = field(default_factory=dict)
    """The last row of training (docs/metrics.md)."""
    records: str = ""
    """Folder of the records of the best and the median episode, relative to the study's."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """The result in a file. UsageError if it cannot be read."""
        with refused(path, "read as a result"):
            return replace(
                TypeAdapter(cls).validate_json(read(path)), records=f"results/{path.stem}"
            )

    @property
    def core_hours(self) -> float | None:
        """Training time times threads, in hours; None if the training time is not known."""
        return None if self.training_seconds is None else self._core_hours(self.training_seconds)

    def _core_hours(self, seconds: float) -> float:
        return seconds * (int(self.machine.get("threads") or 1) / 3600)

    @property
    def curve_x(self) -> dict[str, list[float]]:
        """Million frames and core-hours at each evaluation; no core-hours without training time.

        If the file has no training time of the evaluations, it is in proportion to the frames.
        """
        frames, total = [point[0] for point in self.curve], self.training_seconds
        seconds = self.curve_seconds or [
            at / self.frames * total for at in frames if total is not None
        ]
        return {
            "million frames": [at / 1e6 for at in frames],
            "core-hours": [self._core_hours(second) for second in seconds],
        }

    def other_settings(self, config: Config) -> list[str]:
        """The settings of `config` that differ from the result's, each as `--flag old -> new`.

        UsageError if this version lacks a setting of the result.
        """
        settings = of_this_version(self.settings)
        old = from_dict(settings | {"preset": self.preset or "drqn"}, self.records)
        return [line for name, line in changes(old, config).items() if name in settings]


def changes(old: Config, new: Config) -> dict[str, str]:
    """The different settings that decide the results: name -> `--flag old -> new`."""
    return {
        name: line
        for name, line in differences(old, new).items()
        if name not in FREE_ON_RESUME and not (idle(old, name) and idle(new, name))
    }


def finished(cell: Cell, study: Study) -> Result | None:
    """The result of a cell; None without one of enough frames and of the study's evaluation.

    UsageError if the file cannot be read, or if its run is longer, which is an advantage.
    """
    if not cell.result.exists():
        return None
    result = Result.load(cell.result)
    is_whole = has_all_frames(cell.result, result.frames, cell.config)
    rules = len(result.scores), result.epsilon, result.eval_seed
    is_scored = rules == (study.episodes, study.epsilon, study.eval_seed)
    return result if is_scored and is_whole else None


def has_all_frames(source: Path, frames: int, config: Config) -> bool:
    """Whether a run is as long as `config` says. UsageError if it is longer: an advantage."""
    if frames >= config.frames + build.task(config).frame_skip * build.steps_of_recv(config):
        raise UsageError(f"{source}: has {frames:,} frames, more than --frames {config.frames:,}")
    return frames >= config.frames


def collect(cell: Cell, study: Study) -> Result:
    """Write the result of a trained and scored run.

    UsageError if a part is missing or damaged, or if the run is shorter or longer than its cell.
    """
    config, path, records = cell.config, cell.result, cell.result.with_suffix("")
    agent = open_agent(
        cell.folder,
        eval_episodes=study.episodes,
        eval_epsilon=study.epsilon,
        seed=study.eval_seed,
        threads=1,
    )
    if not has_all_frames(cell.folder, agent.trained["frames"], config):
        raise UsageError(
            f"{cell.folder}: stopped at {agent.trained['frames']:,} of {config.frames:,} frames; "
            "the same command goes on with it"
        )
    episodes = cell.folder / "eval" / agent.label
    with refused(episodes, "read"):
        evaluation = json.loads(read(episodes.with_name(f"{agent.label}.json")))
    with refused(cell.folder / "metrics.jsonl", "read"):
        rows, _ = read_rows(cell.folder / "metrics.jsonl")
        logged = [row for row in rows if "samples" in row]
        curve = [
            (row["frames"], row["eval_score"], row["eval_low"], row["eval_high"])
            for row in rows
            if "eval_score" in row
        ]
    frames, seconds = [[0, *(row[name] for row in logged)] for name in ("frames", "seconds")]
    manifest = load_latest(cell.folder, training=False, report=print).meta
    result = Result(
        agent=cell.agent,
        game=config.game,
        screen=config.observe,
        seed=config.seed,
        samples=logged[-1]["samples"] if logged else None,
        samples_per_step=config.samples_per_step,
        training_seconds=seconds[-1],
        machine=manifest["machine"] | {k: manifest[k] for k in ("threads", "precision", "commit")},
        curve=tuple(curve),
        curve_episodes=config.eval_episodes,
        curve_seconds=tuple(np.interp([point[0] for point in curve], frames, seconds).tolist()),
        preset=config.preset,
        settings={k: v for k, v in to_dict(config).items() if k not in FREE_ON_RESUME},
        metrics=logged[-1] if logged else {},
        records=f"results/{path.stem}",
        parameters=evaluation["parameters"],
        frames=evaluation["frames"],
        protocol=evaluation["protocol"],
        epsilon=evaluation["epsilon"],
        eval_seed=evaluation["eval_seed"],
        mean=evaluation["mean"],
        interval_95=evaluation["interval_95"],
        scores=evaluation["scores"],
    )
    with refused(path, "written"):
        path.unlink(missing_ok=True)  # first: an old result must not lie beside new episodes
        shutil.rmtree(records, ignore_errors=True)
        records.mkdir(parents=True)
        for index in {*middle_and_best(result.scores)}:
            shutil.copyfile(episodes / record_name(index), records / record_name(index))
        write_json(path, asdict(result))
    return result
