"""Run a study: train a grid of agents x games x screens x seeds, score them all, write the report.

python compare.py --agents dqn drqn drqn:core=gru --games breakout pong --seeds 3 --frames 4000000
                  --out studies/NAME
python compare.py FILE.yaml [the same flags]   (flags of train.py for all runs may follow after --)

Finished runs are not repeated; stopped runs continue.
"""

import shlex
import sys
from pathlib import Path
from typing import Any

from experiment import build
from experiment.cluster import connected
from experiment.settings.cli import command, exit_on_usage_error, given, parse
from experiment.settings.config import Config, UsageError, flag, load, named, override, read_yaml
from experiment.settings.resources import cores, free_memory
from experiment.studies import page
from experiment.studies.jobs import Jobs, Workers
from experiment.studies.nodes import RayWorkers
from experiment.studies.study import OF_THE_GRID, Cell, Result, Study, changes, finished, make_cells

# Settings that must be equal for all agents, so that their budgets and their scores are comparable.
FAIR = ("frames", "start_rows", "samples_per_step", "protocol", "eval_episodes", "eval_epsilon")


def read_command(argv: list[str]) -> tuple[Study, dict[str, Any]]:
    """The study, and settings for all its runs: from a YAML file, if one comes first, and flags.

    Flags override the file. UsageError on invalid ones.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    has_file = end > 0 and not argv[0].startswith("-")
    data = _with_underscores(read_yaml(Path(argv[0]))) if has_file else {}
    common = data.pop("train", None)
    if not isinstance(common, dict | None):
        raise UsageError(f"{argv[0]}: train: must hold settings, as NAME: VALUE")
    common = _with_underscores(common or {})
    with named(argv[0] if has_file else "no file"):
        start = Study(**data)
        # Nulls alone: a combination of settings depends on the agent.
        override(Config(), {name: value for name, value in common.items() if value is None})
    study = parse(
        command("compare"),
        argv[has_file:end],
        start,
        "Compare agents on games over seeds. A YAML file of these flags may come first; train.py's "
        "flags follow --.",
    )
    for name in ("cpus_per_run", "gpus_per_run") if not study.ray else ():
        if (value := getattr(study, name)) != getattr(Study(), name):
            raise UsageError(f"{flag(name)} {value:g}: has no effect without --ray")
    common |= given(f"{command('compare')} ... --", argv[end + 1 :], Config())
    for name in common.keys() & {*OF_THE_GRID, "frames"}:
        raise UsageError(f"{flag(name)}: set by the grid, not by train.py's flags; see --help")
    return study, common


def _with_underscores(settings: dict[Any, Any]) -> dict[str, Any]:
    """Settings of a file by their names in the code: eval-episodes becomes eval_episodes."""
    return {str(name).replace("-", "_"): value for name, value in settings.items()}


def unfair(cells: list[Cell]) -> list[str]:
    """One line for each setting in `FAIR` in which agents differ from the first one."""
    lines = []
    for name in FAIR:
        of_agent = {cell.agent: getattr(cell.config, name) for cell in cells}
        usual = of_agent[cells[0].agent]
        others = [f"{value} for {agent}" for agent, value in of_agent.items() if value != usual]
        if others:
            lines.append(f"{flag(name)} is {usual}, but {', '.join(others)}")
    return lines


def is_left(cell: Cell, result: Result | None, study: Study) -> bool:
    """Whether the cell has no result yet.

    UsageError if it cannot run here, or if its files are of a run with other settings.
    """
    if study.ray and cell.config.actors:
        raise UsageError(f"--actors {cell.config.actors}: a run of --ray has no actors of its own")
    # With Ray the nodes check their cores, device, precision and memory.
    if not result and not study.ray:
        build.check_config(cell.config)
    place, others = cell.result, []
    if result:
        others = result.other_settings(cell.config)
    elif (settings := cell.folder / "config.yaml").exists():
        place, others = cell.folder, [*changes(load(settings), cell.config).values()]
    elif cell.result.exists():
        raise UsageError(
            f"{cell.result}: has fewer frames or another evaluation, and its run folder is "
            "missing; restore it, request what the result has, or delete the result to train again"
        )
    elif not study.ray:
        build.check_new(cell.config)
    if others:
        raise UsageError(
            f"{place}: is of a run with other settings ({', '.join(others)}); use another --out, "
            "or report what is finished with --jobs 0"
        )
    return not result


def check_memory(cells: list[Cell], jobs: int) -> None:
    """UsageError if the largest of the runs, `jobs` at a time, need more memory than is free."""
    needs = sorted((cell.expected_bytes for cell in cells), reverse=True)
    need, free = sum(needs[:jobs]), free_memory()
    if need > free:
        fits = f"--jobs {free // needs[0]} fits"
        raise UsageError(
            f"--jobs {jobs}: the runs need about {need / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free; "
            f"{fits if needs[0] <= free else 'not even one fits: lower --replay-rows'}"
        )


@exit_on_usage_error
def main(argv: list[str]) -> int:
    study, common = read_command(argv)
    cells = make_cells(study, common)
    warnings = [f"Not a fair comparison: {line}" for line in unfair(cells)]
    if warnings and not study.allow_unfair:
        raise UsageError(f"{'; '.join(warnings)}. --allow-unfair True compares them anyway")
    results = {cell.name: result for cell in cells if (result := finished(cell, study))}
    left = [
        cell for cell in cells if study.jobs != 0 and is_left(cell, results.get(cell.name), study)
    ]
    # Only with --jobs 0: is_left refuses them otherwise.
    warnings += [
        f"{cell.agent}: trained with other settings: {', '.join(others)}"
        for cell in cells
        if cell.name in results and (others := results[cell.name].other_settings(cell.config))
    ]
    jobs = Jobs(left, study)
    if left and study.ray:
        with connected(study.ray) as ray:
            jobs.run(RayWorkers(ray, left, study), study.jobs or len(left))
    elif left:
        check_memory(left, study.jobs or cores())
        jobs.run(Workers(), study.jobs or cores())
    if jobs.stopped:
        print(
            "stopped; repeat the command to continue; with --jobs 0 it reports the finished runs "
            f"of {study.out}"
        )
        return 130
    for name, reason in jobs.failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    results |= jobs.results
    if not results:
        print(f"no run is finished in {study.out}", file=sys.stderr)
        return 1
    page.publish(
        cells,
        results,
        study,
        warnings=[*dict.fromkeys(warnings)],
        command=f"{command('compare')} {shlex.join(argv)}",
    )
    return 1 if jobs.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
