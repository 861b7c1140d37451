"""Run a study: train a grid of agents x games x screens x seeds, score every run alike, write the report.

python compare.py --agents dqn drqn drqn:core=gru --games breakout pong --seeds 3 --frames 4000000 --out studies/NAME
python compare.py FILE.yaml [the same flags]         (flags of train.py for all runs may follow after --)

Finished runs are not done again; stopped runs go on.
"""

import contextlib
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiment import build
from experiment.cluster.connect import connected
from experiment.cluster.study import RayWorkers
from experiment.settings.cli import command, exit_on_usage_error, given, parse
from experiment.settings.config import Config, UsageError, flag, load, read_yaml
from experiment.settings.resources import cores, free_memory
from experiment.store.files import refused
from experiment.studies import page
from experiment.studies.jobs import Children, Jobs, Workers
from experiment.studies.study import OF_THE_GRID, Cell, Study, changes, finished, make_cells

# Settings that must be the same for all agents: else one is given more than another, or is measured otherwise.
FAIR = ("frames", "start_rows", "samples_per_step", "protocol", "eval_episodes", "eval_epsilon")
ABOUT = "Compare agents on games over seeds. A YAML file of these flags may come first; train.py's flags follow --."


def read_command(argv: list[str]) -> tuple[Study, dict[str, Any]]:
    """The study, and the settings of all its runs: from the command line, over a YAML file if one comes first."""
    end = argv.index("--") if "--" in argv else len(argv)
    has_file = end > 0 and not argv[0].startswith("-")
    data, shared = _read_file(Path(argv[0])) if has_file else ({}, {})
    study = parse(command("compare"), argv[has_file:end], Study(**data), ABOUT)
    shared |= given(f"{command('compare')} ... --", argv[end + 1 :], Config())
    for name in shared.keys() & {*OF_THE_GRID, "frames"}:
        raise UsageError(f"{flag(name)}: set by the grid, not by train.py's flags; see --help")
    return study, shared


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a study and those of all its runs. UsageError if one is null where that is no value."""
    study = read_yaml(path)
    shared = study.pop("train", {})
    if not isinstance(shared, dict):
        raise UsageError(f"{path}: train: must hold settings, as NAME: VALUE")
    for name in (name for name, value in study.items() if value is None):
        raise UsageError(f"{path}: {name}: null is not a value; omit the line for the default")
    one, other = ({str(name).replace("-", "_"): value for name, value in data.items()} for data in (study, shared))
    return one, other


def unfair(cells: list[Cell]) -> list[str]:
    """The settings that give one agent more than another, or measure it otherwise, one line each."""
    lines = []
    for name in FAIR:
        values = {cell.agent: getattr(cell.config, name) for cell in cells}
        if len(set(values.values())) > 1:
            lines.append(f"{flag(name)} is " + ", ".join(f"{value} for {agent}" for agent, value in values.items()))
    return lines


def is_left(cell: Cell, study: Study) -> bool:
    """Whether the cell must be run. UsageError if it cannot be, or if its files are of a run with other settings."""
    if result := finished(cell, study):
        if other := result.other_settings(cell.config):
            raise UsageError(f"{cell.result}: its run had other settings ({', '.join(other)}); use another --out, "
                             "or report it as it is with --jobs 0")  # fmt: skip
        return False
    if not study.ray:  # else the nodes check their cores, device, precision and memory
        build.check_config(cell.config)
    if cell.folder.exists():
        if other := changes(load(cell.folder / "config.yaml"), cell.config):
            raise UsageError(f"{cell.folder}: is a run with other settings ({', '.join(other.values())}); "
                             "use another --out")  # fmt: skip
    elif cell.result.exists():
        raise UsageError(f"{cell.result}: has fewer frames or another evaluation, and its run folder is missing; "
                         "restore it, request what the result has, or delete the result to train again")  # fmt: skip
    else:
        build.check_new(replace(cell.config, precision="auto") if study.ray else cell.config)
    return True


def check_memory(cells: list[Cell], jobs: int) -> None:
    """UsageError if the largest runs that may run at a time need more memory than is free."""
    needs = sorted((sum(build.expected_bytes(cell.config).values()) for cell in cells), reverse=True)[:jobs]
    if sum(needs) > (free := free_memory()):
        gigabytes = f"{sum(needs) / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
        raise UsageError(f"--jobs {jobs}: the runs need about {gigabytes}; --jobs {free // needs[0]} fits")


@contextlib.contextmanager
def open_workers(study: Study, cells: list[Cell]) -> Iterator[tuple[Workers | None, int]]:
    """The workers that train and score the cells that need it, and the most that may run at a time; None with --jobs 0.

    UsageError if a cell cannot be run, or if there is no room.
    """
    if study.jobs == 0:
        yield None, 1
        return
    left = [cell for cell in cells if is_left(cell, study)]
    if study.ray and left:
        with connected(study.ray) as ray:
            yield RayWorkers(ray, left, study), study.jobs or len(left)
    else:
        jobs = study.jobs or cores()
        check_memory(left, jobs)
        yield Children(), jobs


@exit_on_usage_error
def main(argv: list[str]) -> int:
    study, shared = read_command(argv)
    cells = make_cells(study, shared)
    warnings = [f"Not a fair comparison: {line}" for line in unfair(cells)]
    if warnings and not study.allow_unfair:
        raise UsageError(f"{'; '.join(warnings)}. --allow-unfair True compares them anyway")
    jobs = Jobs(cells, study)
    with open_workers(study, cells) as (workers, at_a_time):
        if workers:
            with refused(f"--out {study.out}", "made"):
                (study.out / "runs").mkdir(parents=True, exist_ok=True)
        jobs.run(workers, at_a_time)
    if jobs.stopped:
        print(f"stopped; repeat the command to continue; with --jobs 0 it reports the finished runs of {study.out}")
        return 130
    for name, reason in jobs.failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if not jobs.results:
        print(f"no run is finished in {study.out}", file=sys.stderr)
        return 1
    others = ((cell, result.other_settings(cell.config)) for cell in cells if (result := jobs.results.get(cell.name)))
    warnings += dict.fromkeys(f"{cell.agent}: trained with other settings: {', '.join(o)}" for cell, o in others if o)
    page.publish(cells, jobs.results, study, warnings, f"{command('compare')} {shlex.join(argv)}")
    return 1 if jobs.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
