"""What a comparison came to: a table, `compare.json`, and `compare.png` with learning curves and a screen of each game.

Scores are true game scores under one protocol. With one seed the interval is over its evaluation episodes; with
more it is over the runs' mean scores, since episodes of one run say nothing of other seeds (Henderson et al. 2018).
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from envs.episodes import EpisodeRecord, replay_colour
from envs.games import human_normalised, human_score, random_score
from experiment import setup
from experiment.checkpoint import saved_frames
from experiment.config import Config, UsageError
from experiment.statistics import (
    interquartile_mean,
    mean_interval,
    probability_of_improvement,
    probability_of_improvement_interval,
    stratified_bootstrap,
)


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    preset: str
    config: Config
    folder: Path
    words: list[str]  # of train.py
    flags: list[str]  # those of them that all runs share

    @property
    def frames(self) -> int:
        """How far its newest checkpoint is; 0 without one."""
        return max(saved_frames(self.folder), default=0)


def evaluation(cell: Cell, episodes: int, epsilon: float, seed: int) -> dict[str, Any]:
    """The newest evaluation of the finished run with these figures, its file as `path`; {} if there is none."""
    seen = setup.observe(cell.config)
    wanted = {
        "protocol": cell.config.protocol,
        "observe": [seen.kind, seen.parameter],
        "episodes": episodes,
        "epsilon": epsilon,
        "eval_seed": seed,
        "frames": cell.frames,
    }
    for path in sorted((cell.folder / "eval").glob("*.json"), reverse=True):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            found = json.loads(path.read_text())
            if isinstance(found, dict) and wanted.items() <= found.items():
                return found | {"path": path}
    return {}


def rows(cell: Cell) -> list[dict[str, Any]]:
    """The whole rows of metrics.jsonl. UsageError if it cannot be read."""
    path = cell.folder / "metrics.jsonl"
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None


def result(cell: Cell, episodes: int, epsilon: float, seed: int) -> dict[str, Any]:
    """All that the report says of one run."""
    found, metrics = evaluation(cell, episodes, epsilon, seed), rows(cell)
    last = next((row for row in reversed(metrics) if "updates" in row), {})
    videos = sorted((cell.folder / "videos").glob(f"*-{found['frames']:012d}-*.mp4"), key=lambda p: p.stat().st_mtime)
    best = found["path"].with_suffix("") / f"episode-{int(np.argmax(found['scores'])):03d}.json"
    return {
        "agent": cell.preset,
        "game": cell.config.game,
        "seed": cell.config.seed,
        "parameters": found["parameters"],
        "frames": found["frames"],
        "samples": last.get("samples"),
        "samples_per_step": cell.config.samples_per_step,
        "training_seconds": last.get("seconds"),
        **{k: found[k] for k in ("protocol", "observe", "epsilon", "eval_seed", "mean", "interval_95", "scores")},
        "curve": [[r["frames"], r["eval_score"], r["eval_low"], r["eval_high"]] for r in metrics if "eval_score" in r],
        "curve_episodes": cell.config.eval_episodes,
        "best_episode": str(best),
        "video": str(videos[-1]) if videos else None,
    }


def summary(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each agent and game, over its seeds."""
    table = []
    for agent, game in dict.fromkeys((r["agent"], r["game"]) for r in results):
        group = [r for r in results if (r["agent"], r["game"]) == (agent, game)]
        means = [r["mean"] for r in group]
        low, high = mean_interval(means) if len(group) > 1 else group[0]["interval_95"]
        mean = float(np.mean(means))
        table.append(
            {k: group[0][k] for k in ("agent", "game", "parameters", "frames", "samples", "samples_per_step")}
            | {"seeds": len(group), "mean": mean, "interval_95": [low, high]}
            | {"interval_over": "seeds" if len(group) > 1 else f"{len(group[0]['scores'])} episodes of one run"}
            | {"random": random_score(game), "human": human_score(game), "normalised": human_normalised(game, mean)}
        )
    return table


def across_games(results: list[dict[str, Any]]) -> list[str]:
    """What the grid says of agents: IQM of human-normalised scores, and who beats whom. Nothing for one seed."""
    agents, games = (list(dict.fromkeys(r[key] for r in results)) for key in ("agent", "game"))
    known = [game for game in games if human_score(game) is not None]
    seeds = max(r["seed"] for r in results)
    if seeds < 2 or not known:
        return []
    rng, lines = np.random.default_rng(0), []
    tables = {
        agent: np.reshape(
            np.array(
                [human_normalised(r["game"], r["mean"]) for r in results if r["agent"] == agent and r["game"] in known],
                dtype=float,
            ),
            (seeds, len(known)),  # seeds are outermost in a grid
        )
        for agent in agents
    }
    for agent, scores in tables.items():
        low, high = stratified_bootstrap(scores, interquartile_mean, rng=rng)
        value = float(interquartile_mean(scores))
        lines.append(f"{agent}: IQM of human-normalised scores {value:.3f} (95 % bootstrap {low:.3f} to {high:.3f})")
    first, *others = agents
    for other in others:
        pair = tables[other], tables[first]
        low, high = probability_of_improvement_interval(*pair, rng=rng)
        value = float(probability_of_improvement(*pair))
        lines.append(f"a run of {other} beats one of {first} with probability {value:.2f} ({low:.2f} to {high:.2f})")
    return [*lines, f"over {len(known)} games x {seeds} seeds (Agarwal et al. 2021); with few seeds read with care"]


def print_table(results: list[dict[str, Any]], command: str, stem: Path) -> None:
    """Print the table and the videos' paths; write `stem`.json and `stem`.png."""
    first, table = results[0], summary(results)
    terms = f"protocol {first['protocol']}, observe {first['observe'][0]} {first['observe'][1]:g}, "
    terms += f"{len(first['scores'])} whole episodes a run, epsilon {first['epsilon']:g}, true scores"
    shown = Table(title=terms, title_justify="left")
    for name in ("agent", "game", "parameters", "frames", "samples/step", "seeds", "score (95 % interval)",
                 "random", "human", "normalised"):  # fmt: skip
        shown.add_column(name, justify="left" if name in ("agent", "game") else "right")
    for row in table:
        low, high = (float("nan") if end is None else end for end in row["interval_95"])
        known = ["-" if row[k] is None else f"{row[k]:g}" for k in ("random", "human")]
        normalised = "-" if row["normalised"] is None else f"{row['normalised']:.3f}"
        shown.add_row(
            row["agent"], row["game"], f"{row['parameters']:,}", f"{row['frames']:,}", f"{row['samples_per_step']:g}",
            str(row["seeds"]), f"{row['mean']:.1f} ({low:.1f} to {high:.1f})", *known, normalised,
        )  # fmt: skip
    console = Console(highlight=False)
    console.print()
    Console(highlight=False, width=max(console.width, 120)).print(shown)
    over = table[0]["interval_over"]
    print(f"interval over {over}: " + ("other seeds may differ by more" if "one run" in over else "Student's t"))
    for line in across_games(results):
        print(line)
    for key in ("frames", "samples"):
        if len({row[key] for row in table}) > 1:
            print(f"not equal budgets: {key} " + ", ".join(f"{r['agent']} {r['game']} {r[key]:,}" for r in table))
    for r in results:
        if r["video"]:
            print(f"video       {r['video']}")
    text = json.dumps({"command": command, "table": table, "runs": results}, indent=1, allow_nan=False)
    try:
        stem.with_suffix(".json").write_text(text + "\n")
        print(f"report      {stem.with_suffix('.json')}, {draw(results, stem.with_suffix('.png'))}", flush=True)
    except OSError as error:
        raise UsageError(f"{stem}: the report cannot be written ({error.strerror})") from None


def draw(results: list[dict[str, Any]], path: Path) -> Path:
    """One row a game: the learning curve of every run, and a screen of each agent's best episode."""
    import matplotlib

    matplotlib.use("Agg")  # no window
    from matplotlib import pyplot

    games = list(dict.fromkeys(r["game"] for r in results))
    agents = list(dict.fromkeys(r["agent"] for r in results))
    widths = [3, *[1] * len(agents)]
    figure, axes = pyplot.subplots(
        len(games), len(widths), figsize=(5 + 2 * len(agents), 3.4 * len(games)), squeeze=False, width_ratios=widths
    )
    for game, (curve, *screens) in zip(games, axes, strict=True):
        for colour, agent in enumerate(agents):
            runs = [r for r in results if r["agent"] == agent and r["game"] == game]
            for i, r in enumerate(runs):
                points = np.array([(0, *[random_score(game) or 0] * 3), *r["curve"]], float)  # [P, 4]
                label = agent if i == 0 else None
                curve.plot(points[:, 0] / 1e6, points[:, 1], f"C{colour}o-", ms=3, label=label)
                curve.fill_between(points[:, 0] / 1e6, points[:, 2], points[:, 3], color=f"C{colour}", alpha=0.12)
            best = max(runs, key=lambda r: max(r["scores"]))
            record = EpisodeRecord.load(Path(best["best_episode"]))
            screen = next(islice(replay_colour(record), record.steps * 3 // 4, None))
            screens[colour].imshow(screen)
            screens[colour].set_title(f"{agent}, best: {record.score:g}", fontsize=9)
            screens[colour].axis("off")
        r = next(r for r in results if r["game"] == game)
        curve.set_title(f"{game}, {r['protocol']}, {r['curve_episodes']} episodes a point, 95 % interval", fontsize=9)
        curve.set_xlabel("million frames")
        curve.set_ylabel("score")
        curve.grid(alpha=0.3)
        curve.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
