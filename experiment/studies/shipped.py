"""A Markdown table of exported agents and, for comparison, of other players and published agents.

python -m experiment.studies.shipped [zoo]
"""

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Annotated

from pydantic.dataclasses import dataclass

from agents.fields import FORBID
from experiment.scores.agent import CURVE, EVALUATION
from experiment.settings.cli import exit_on_usage_error, parse
from experiment.settings.config import Folder, Positional, Settings, UsageError, load
from experiment.store.files import read, refused
from experiment.studies.findings import LEVELS, known_levels, with_interval

PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text("utf-8"))


@dataclass(frozen=True, config=FORBID)
class ShippedConfig(Settings):
    """Print a table of exported agents."""

    folder: Annotated[Folder, Positional] = Path("zoo")
    """Folder of the agents' folders."""


def published(game: str, frames: int) -> str:
    """The published scores at the first number of million frames that is not below `frames`."""
    for millions, scores in PUBLISHED["scores"].get(game, {}).items():
        if frames <= 1.01e6 * int(millions):
            cells = map("{} {:g}".format, PUBLISHED["agents"], scores)
            return f"{', '.join(cells)} at {millions} million"
    return "-"


def table(folder: Path) -> str:
    """The table of the agents in a folder. UsageError without an agent, or on a damaged file.

    `training return` is the mean of the last million frames, as the published figures are.
    """
    head = ["game", "agent", "torso", "score (95 % interval)", "frames", "hours", *LEVELS]
    head += ["training return", "published"]
    rows, rules = [head, ["---"] * len(head)], set()
    for path in sorted(folder.glob(f"*/{EVALUATION}")):
        with refused(path, "read"):
            about, curve = (json.loads(read(p)) for p in (path, path.with_name(CURVE)))
            points = [dict(zip(curve["fields"], cells, strict=True)) for cells in curve["rows"]]
            seconds = max(point["seconds"] or 0 for point in points)
            returns = [
                point["return_mean"]
                for point in points
                if point["frames"] > about["frames"] - 1_000_000
                and point["return_mean"] is not None
            ]
            levels = known_levels(about["game"], about["protocol"])
            rows.append(
                [
                    about["game"],
                    about["preset"],
                    load(path.with_name("config.yaml")).torso,
                    with_interval(about["mean"], *about["interval_95"]),
                    f"{about['frames']:,}",
                    f"{seconds / 3600:.2f}",
                    *(f"{levels[name]:g}" if name in levels else "-" for name in LEVELS),
                    f"{fmean(returns):.1f}" if returns else "-",
                    published(about["game"], about["frames"]),
                ]
            )
            rules.add(
                f"{about['episodes']} episodes, protocol {about['protocol']}, "
                f"epsilon {about['epsilon']:g}, "
                f"training seed {about['train_seed']}, evaluation seed {about['eval_seed']}"
            )
    if not rules:
        raise UsageError(
            f"{folder}: holds no exported agents; "
            f"write one with evaluate.py runs/NAME --export {folder}/NAME"
        )
    return "\n".join(
        [
            *(f"| {' | '.join(cells)} |" for cells in rows),
            "",
            f"Agents: {'; '.join(sorted(rules))}.",
            f"Published: {PUBLISHED['source']}.",
        ]
    )


@exit_on_usage_error
def main(argv: list[str]) -> int:
    print(table(parse("experiment.studies.shipped", argv, ShippedConfig()).folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
