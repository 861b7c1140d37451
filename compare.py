"""Train a grid of agents x games x seeds under one budget, score every run, print what came out.

python compare.py [--agents dqn,drqn] [--games breakout] [--seeds 1] [--frames N] [-- flags of train.py for all]

What is finished is not done again; what was stopped goes on.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiment import report, setup
from experiment.cli import exit_on_usage_error, parse_fields, parse_train
from experiment.config import UsageError, load
from experiment.report import Cell
from experiment.run import check_same
from experiment.tracking import page_command

OF_THE_GRID = ("--game", "--seed", "--frames", "--name", "--runs-dir", "--resume")
ROOT = Path(__file__).resolve().parent


@dataclass(frozen=True)
class CompareConfig:
    """Compare agents on games over seeds: the same frames and the same trained samples for all."""

    agents: str = "dqn,drqn"
    """Presets, parted by commas."""
    games: str = "breakout"
    """Games, parted by commas."""
    seeds: int = 1
    """Runs of each agent on each game, with the seeds 1, 2, ..."""
    frames: int = 4_000_000
    """Length of each run, in emulator frames."""
    runs_dir: Path = Path("runs")
    """Where runs are kept, and the report: compare.json and compare.png."""
    episodes: int = 30
    """Whole episodes that score each finished run."""
    epsilon: float = 0.001
    """Share of random actions in those episodes."""
    eval_seed: int = 1000
    """Of those episodes; the same for all runs."""
    video: Literal["best", "median", "all", "none"] = "best"
    """Episodes of each run to film."""


def make_cells(wanted: CompareConfig, flags: list[str]) -> list[Cell]:
    """Every run of the grid, seeds outermost, its settings checked. UsageError on the first fault."""
    for flag, value in (("--seeds", wanted.seeds), ("--episodes", wanted.episodes), ("--frames", wanted.frames)):
        if value < 1:
            raise UsageError(f"{flag} {value}: must be at least 1")
    if not 0 <= wanted.epsilon <= 1:
        raise UsageError(f"--epsilon {wanted.epsilon}: must be from 0 to 1")
    if not 0 <= wanted.eval_seed < 2**31:
        raise UsageError(f"--eval-seed {wanted.eval_seed}: must be from 0, and below 2147483648")
    for word in flags:
        if word.partition("=")[0].replace("_", "-") in OF_THE_GRID:
            raise UsageError(f"{word} after --: the grid sets it; see --help")
    cells = []
    for seed in range(1, wanted.seeds + 1):
        for game in wanted.games.split(","):
            for agent in wanted.agents.split(","):
                words = [agent, "--game", game, "--seed", str(seed), "--frames", str(wanted.frames)]
                words += ["--runs-dir", str(wanted.runs_dir), *flags]
                config, preset, _ = parse_train(words)
                setup.check_config(config)
                cells.append(Cell(preset, config, config.runs_dir / f"{preset}-{game}-s{seed}", words, flags))
    if len({cell.folder for cell in cells}) < len(cells):
        raise UsageError(f"--agents {wanted.agents} --games {wanted.games}: one is given twice")
    return cells


def run(program: str, words: list[str]) -> None:
    """A program of ours, to its end. UsageError if it fails or is stopped; it has said why itself."""
    print(f"\n$ python {program} {shlex.join(words)}", flush=True)
    child = subprocess.Popen([sys.executable, str(ROOT / program), *words])
    while True:
        try:
            status = child.wait()
            break
        except KeyboardInterrupt:  # the child has it too, saves and leaves
            continue
    if status:
        raise UsageError(f"{program} ended with status {status}; the same command goes on from here")


def finish(cell: Cell, wanted: CompareConfig) -> None:
    """Train the run to its last frame, or as far as is missing, and score it."""
    if cell.folder.exists():
        stored, preset = load(cell.folder / "config.yaml")
        if preset != cell.preset:
            raise UsageError(f"{cell.folder}: is a run of {preset}, not of {cell.preset}")
        check_same(stored, cell.config)
    if not cell.folder.exists():
        run("train.py", cell.words)
    elif cell.frames < wanted.frames:
        run("train.py", ["--resume", str(cell.folder), "--frames", str(wanted.frames), *cell.flags])
    if cell.frames < wanted.frames:
        raise UsageError(f"{cell.folder}: stopped at {cell.frames:,} frames; the same command goes on from here")
    if not report.evaluation(cell, wanted.episodes, wanted.epsilon, wanted.eval_seed):
        words = [str(cell.folder), "--episodes", str(wanted.episodes), "--epsilon", str(wanted.epsilon)]
        run("evaluate.py", [*words, "--seed", str(wanted.eval_seed), "--video", wanted.video])


@exit_on_usage_error
def main(argv: list[str]) -> int:
    own, flags = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    text = "Compare agents on games over seeds. Flags of train.py for all runs may follow after --."
    wanted = parse_fields("compare.py", CompareConfig, own, CompareConfig(), text)
    cells = make_cells(wanted, flags)
    for cell in cells:
        finish(cell, wanted)
    results = [report.result(cell, wanted.episodes, wanted.epsilon, wanted.eval_seed) for cell in cells]
    report.print_table(results, shlex.join(["python", "compare.py", *argv]), wanted.runs_dir / "compare")
    print(f"page        {page_command(cells[0].folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
