"""A study: train a grid of agents x games x screens x seeds, score every run alike, write the report.

python compare.py --agents dqn drqn drqn:core=gru --games breakout pong --seeds 3 --frames 4000000 --out studies/NAME
python compare.py FILE.yaml [the same flags]               (flags of train.py for all runs may follow after --)

What is finished is not done again; what was stopped goes on.
"""

import itertools
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from agents.fields import FORBID, Count, Share
from experiment import build
from experiment.runs.trackers import page_command
from experiment.settings.cli import exit_on_usage_error, parse
from experiment.settings.config import (
    Episodes,
    Screen,
    Seed,
    Settings,
    UsageError,
    Words,
    check_effect,
    flag,
    load,
    override,
    preset,
    read_yaml,
)
from experiment.settings.resources import free_memory
from experiment.store.files import refused
from experiment.studies import findings as report
from experiment.studies.jobs import Grid, core_shares
from experiment.studies.study import Cell, Terms, check_is_of, is_on, kept

OF_EVERY_RUN = ("game", "seed", "name", "runs_dir", "resume")  # the grid's, not an agent's
OF_THE_GRID = (*OF_EVERY_RUN, "frames", "observe")
# What must be the same for all agents: else one is given more, or is measured otherwise.
FAIR = ("frames", "start_rows", "samples_per_step", "protocol", "eval_episodes", "eval_epsilon")


@dataclass(frozen=True, config=FORBID)
class CompareConfig(Settings):
    """Compare agents on games over seeds: the same frames and the same trained samples for all."""

    agents: Words = ("dqn", "drqn")
    """Presets, each with what is to be other: drqn:core=gru,frame_stack=2."""
    games: Words = ("breakout",)
    """Games."""
    observe: Annotated[tuple[Screen, ...], Field(strict=False)] = ("full",)
    """What the agents see, in training and evaluation: full, flicker:0.5, delay:2, ..."""
    seeds: Annotated[int, Field(ge=1, le=1000)] = 1
    """Runs of each agent on each game and screen, with the seeds 1, 2, ..."""
    frames: Count = 4_000_000
    """Length of each run, in emulator frames."""
    out: Path = Path("studies/latest")
    """The study's folder: report.html, report.json, report.png, scores.csv; the runs go to runs/ in it."""
    question: str = ""
    """What the study asks: the report's first line. Default: made from the grid."""
    jobs: Annotated[int, Field(ge=0, le=1000)] = 1
    """Runs at a time, each on its share of the cores. 0: run nothing, report what is finished. A run that goes on with
    another share is no longer the same bit for bit."""
    episodes: Episodes = 30
    """Whole episodes that score each finished run."""
    epsilon: Share = 0.001
    """Share of random actions in those episodes."""
    eval_seed: Seed = 1000
    """Of those episodes; the same for all runs."""
    video: Literal["best", "median", "all", "none"] = "best"
    """Episodes of each run to film at length; the report has short films of its own."""
    allow_unfair: bool = False
    """Compare agents with unequal budgets or terms all the same; the report says so."""


def read_words(argv: list[str]) -> tuple[list[str], list[str]]:
    """The study's own words and those for train.py, from the command line over a YAML file, if one comes first."""
    own, shared = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    if not own or own[0].startswith("-"):
        return own, shared
    path, own = Path(own[0]), own[1:]
    data = read_yaml(path)
    train = data.pop("train", None) or {}
    if not isinstance(train, dict):
        raise UsageError(f"{path}: not a study: expected flags of compare.py by name, and those of train.py in train:")
    return _yaml_words(path, data, own) + own, _yaml_words(path, train, shared) + shared


def _yaml_words(path: Path, part: dict[Any, Any], given: list[str]) -> list[str]:
    """{"games": ["pong"]} -> ["--games", "pong"], but for what is given already."""
    over = {word.partition("=")[0].replace("_", "-") for word in given}
    found = []
    for key, value in part.items():
        values = value if isinstance(value, list) else [value]
        if not isinstance(key, str) or not all(isinstance(v, str | int | float) for v in values):
            raise UsageError(f"{path}: {key!r:.40}: expected one plain value, or a list of them")
        if flag(key) not in over:
            found += [flag(key), *map(str, values)]
    return found


def read_settings(words: list[str], place: str, taken: tuple[str, ...]) -> dict[str, str]:
    """["--frame-stack", "2"] or ["--frame-stack=2"] -> {"frame_stack": "2"}; train.py's parser checks them later."""
    found, words = {}, [part for word in words for part in (word.split("=", 1) if word[:2] == "--" else [word])]
    for name, value in zip(words[::2], [*words[1::2], ""], strict=False):
        key = name.removeprefix("--").replace("-", "_")
        if key in taken:
            raise UsageError(f"{name} {place}: the grid sets it; see --help")
        if not re.fullmatch(r"--\w[\w-]*", name) or not value or value.startswith("--"):
            raise UsageError(f"{name} {place}: write --SETTING VALUE")
        if key in found:
            raise UsageError(f"{name} {place}: given twice")
        found[key] = value
    return found


def make_cells(wanted: CompareConfig, shared: dict[str, str]) -> list[Cell]:
    """Every run of the grid, seeds outermost, its settings checked. UsageError on the first fault."""
    cores, cells = len((core_shares(wanted.jobs) or core_shares(1))[0]), []
    for screen, game, arm in itertools.product(wanted.observe, wanted.games, wanted.agents):
        name, _, changes = arm.partition(":")
        own = read_settings([f"--{c}" for c in changes.split(",") if c], f"in --agents {arm}", OF_EVERY_RUN)
        settings = {"threads": str(cores), "parts": "1"} | shared | {"frames": str(wanted.frames), "observe": screen}
        settings |= own | {"game": game, "runs_dir": str(wanted.out / "runs")}
        config = override(preset(name), settings)
        check_effect(config, own)
        for seed in range(1, wanted.seeds + 1):
            words = [arm, game, *([screen] if screen != "full" else []), f"s{seed}"]
            of_run = {"seed": seed, "name": re.sub(r"[^\w.-]+", "-", "-".join(words))}  # safe in any shell
            of_seed = replace(config, **of_run)
            run_settings = settings | {k: str(v) for k, v in of_run.items()}
            cells.append(Cell(arm, screen, name, of_seed, run_settings))
    cells.sort(key=lambda cell: cell.config.seed)  # a whole grid of one seed comes first
    known: dict[object, Cell] = {}
    for cell in cells:
        meant = replace(cell.config, name="", preset="drqn")
        for key in (cell.folder, meant):
            if (first := known.setdefault(key, cell)) is not cell:
                words = (f"--agents {c.arm} --games {c.config.game} --observe {c.screen}" for c in (first, cell))
                raise UsageError(f"{' and '.join(words)}: the same run is given twice")
    return cells


def unfair(cells: list[Cell]) -> list[str]:
    """What gives one agent more than another, or measures it otherwise, in words."""
    found: dict[tuple[str, str], dict[str, object]] = {}  # what, and on which screen -> arm -> its value
    for cell in cells:
        for name in FAIR:
            found.setdefault((name, ""), {})[cell.arm] = getattr(cell.config, name)
        found.setdefault(("observe", cell.screen), {})[cell.arm] = cell.config.observe
    for screen in {cell.screen for cell in cells}:  # an arm may say otherwise than its screen
        found["observe", screen]["the grid"] = screen
    return [
        f"{flag(name)} is " + ", ".join(f"{value} for {arm}" for arm, value in values.items())
        for (name, _), values in found.items()
        if len(set(values.values())) > 1
    ]


def is_left(cell: Cell, terms: Terms, begins: bool) -> bool:
    """Whether it is not finished on these terms. UsageError if its folder, or the result that was kept, is of something
    else, or if it cannot begin."""
    if is_on(cell, terms, found := kept(cell)):
        return False
    if cell.folder.exists():
        check_is_of(cell, cell.folder, load(cell.folder / "config.yaml"), cell.frames)
    elif found and begins:
        raise UsageError(
            f"{cell.kept}: is of fewer frames or of another evaluation, and its run is not here; "
            "bring the run, ask for what was kept, or delete this file to train anew"
        )
    elif begins:
        build.check_new(cell.config)
    if begins:
        build.check_config(cell.config)
    return True


def check_room(cells: list[Cell], jobs: int) -> None:
    """UsageError if one asks for more than its share of the cores, or the largest that may run at a time for more than
    the memory that is free."""
    cores = min(map(len, core_shares(jobs)), default=0)
    for cell in cells if jobs else []:
        if cell.config.threads > cores:
            raise UsageError(f"--threads {cell.config.threads}: with --jobs {jobs} a run has {cores}")
    need = sum(sorted((sum(build.expected_bytes(cell.config).values()) / 1e9 for cell in cells), reverse=True)[:jobs])
    if need > (free := free_memory() / 1e9):
        raise UsageError(f"--jobs {jobs}: need about {need:.1f} GB of memory, {free:.1f} GB are free")


@exit_on_usage_error
def main(argv: list[str]) -> int:
    own, words = read_words(argv)
    text = "Compare agents on games over seeds. A YAML file of these flags may come first; train.py's flags follow --."
    wanted = parse("compare.py", own, CompareConfig(), text)
    cells = make_cells(wanted, read_settings(words, "after --", OF_THE_GRID))
    terms = Terms(wanted.episodes, wanted.epsilon, wanted.eval_seed)
    differences = unfair(cells)
    if differences and not wanted.allow_unfair:
        raise UsageError(f"not a fair comparison: {'; '.join(differences)}. --allow-unfair True compares all the same")
    check_room([cell for cell in cells if is_left(cell, terms, begins=wanted.jobs > 0)], wanted.jobs)
    with refused(f"--out {wanted.out}", "made"):
        cells[0].config.runs_dir.mkdir(parents=True, exist_ok=True)
    grid = Grid(cells, terms, wanted.video)
    if wanted.jobs:
        grid.run(wanted.jobs)
    if grid.stopped:
        print(f"stopped; the same command goes on; with --jobs 0 it reports what is finished in {wanted.out}")
        return 130
    for cell in cells:
        try:
            grid.collect(cell)
        except UsageError as error:  # one damaged run does not take the others' report
            grid.failures[cell.folder] = str(error)
    results = [grid.results[cell.folder] for cell in cells if cell.folder in grid.results]
    missing = [cell.folder.name for cell in cells if cell.folder not in grid.results]
    for folder, reason in grid.failures.items():
        print(f"failed      {folder.name}: {reason}", file=sys.stderr)
    if not results:
        print(f"no run is finished in {wanted.out}", file=sys.stderr)
        return 1
    command = shlex.join(["python", "compare.py", *argv])
    report.write(results, cells, wanted.out, question=wanted.question, command=command,
                 unfair=differences, missing=missing)  # fmt: skip
    print(f"page        {page_command(cells[0].folder)}")
    return 1 if grid.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
