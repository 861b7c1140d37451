"""`report.html`: one file that opens anywhere and fetches nothing."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiment.runs.console import duration
from experiment.studies import figures


def with_interval(value: float, low: float | None, high: float | None) -> str:
    """12.3 (10.1 to 14.5)."""
    return f"{value:.1f}" + ("" if low is None or high is None else f" ({low:.1f} to {high:.1f})")


def render(study: dict[str, Any], clips: list[dict[str, Any]], csv: str) -> str:
    """The page of a study as `experiment.studies.findings.describe` makes it."""
    arms, runs = study["arms"], study["runs"]
    tasks = []
    for game, screen in dict.fromkeys((row["game"], row["screen"]) for row in study["table"]):

        def here(items: list[dict[str, Any]], task: tuple[str, str] = (game, screen)) -> list[dict[str, Any]]:
            return [item for item in items if (item["game"], item["screen"]) == task]

        own = here(runs)
        means = {arm: figures.curve_means(group) for arm in arms if (group := [r for r in own if r["arm"] == arm])}
        points = sorted({point[0] for mean in means.values() for point in mean})
        at = {arm: {point[0]: point[1:] for point in mean} for arm, mean in means.items()}
        tasks.append(
            {
                "game": game,
                "screen": screen,
                "rows": here(study["table"]),
                "curves": figures.curves(own, arms) if points else "",
                "curve_arms": list(means),
                "curve_rows": [[f"{p / 1e6:g}", *(_cell(at[arm].get(p)) for arm in means)] for p in points],
                "finals": figures.finals(here(study["table"]), arms),
                "clips": sorted(here(clips), key=lambda clip: arms.index(clip["arm"])),
            }
        )
    across = [
        over
        | {"iqm_plot": figures.interquartile_means(over, arms) if "iqm" in over else ""}
        | {"profile_plot": figures.profile(over, arms) if "profile" in over else ""}
        | {"improvement_plot": figures.improvement(over) if over.get("improvement") else ""}
        for over in study["across"]
    ]
    return _template().render(
        study | {"tasks": tasks, "across": across, "budget_rows": _budgets(study), "machines": _machines(runs)},
        first=runs[0],
        looks=figures.styles(arms),
        csv="data:text/csv;base64," + base64.b64encode(csv.encode()).decode(),
    )


def _cell(point: list[float] | None) -> str:
    """A mean and its interval; NaN is no interval."""
    if point is None:
        return "-"
    return with_interval(point[0], *(None if end != end else end for end in point[1:]))


def _budgets(study: dict[str, Any]) -> list[list[str]]:
    """[what, its value for each arm]: the smallest and the largest of its runs, where they differ."""
    found = []
    for what, key, show in (
        ("parameters", "parameters", "{:,}".format),
        ("frames a run", "frames", "{:,}".format),
        ("samples trained a run", "samples", "{:,}".format),
        ("samples a step", "samples_per_step", "{:g}".format),
        ("training time a run", "training_seconds", duration),
    ):
        line = [what]
        for arm in study["arms"]:
            values = sorted(r[key] for r in study["runs"] if r["arm"] == arm and r[key] is not None)
            line.append(" to ".join(dict.fromkeys(show(v) for v in (values[:1] + values[-1:]))) or "-")
        found.append(line)
    return found


def _machines(runs: list[dict[str, Any]]) -> list[str]:
    """The machines and versions that trained the runs; where there are several, whose runs each trained."""
    arms: dict[str, dict[str, None]] = {}
    for r in runs:
        text = ", ".join(f"{k} {v}" for k, v in r["machine"].items() if v is not None)
        arms.setdefault(text, {})[r["arm"]] = None
    return [text + (f" ({', '.join(of)})" if len(arms) > 1 else "") for text, of in sorted(arms.items())]


def _template() -> Any:
    loader = FileSystemLoader(Path(__file__).parent)
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters |= {"score": with_interval, "plain": lambda s: s.replace("_", " ")}
    return jinja.get_template("report.html.j2")
