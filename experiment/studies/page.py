"""The report of a study: `report.md` with figures and films, and `report.html`, all in one file.

Beside them: `scores.csv` with every score, and `report.json` with all values in the report.
"""

import base64
import csv
import io
import re
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.markdown import Markdown

from envs.episodes import EpisodeRecord
from experiment.plots import Line, draw_bars, draw_lines
from experiment.scores.evaluation import middle_and_best, record_name
from experiment.scores.progress import progress
from experiment.scores.video import CLIP_SECONDS, write_clip
from experiment.settings.config import file_name
from experiment.store.files import refused, write_json, write_text
from experiment.studies.findings import (
    Finding,
    across_games,
    budgets,
    curve_means,
    differing_settings,
    grouped,
    last_metrics,
    make_findings,
    table,
    with_interval,
)
from experiment.studies.study import Cell, Result, Study

MIME = {"png": "image/png", "mp4": "video/mp4"}
STYLE = """
body { max-width: 75em; margin: 1em auto; padding: 0 1em; font: 15px/1.45 system-ui, sans-serif; }
table { display: block; overflow-x: auto; border-collapse: collapse; }
th, td { border: 1px solid #ccc; padding: 0.2em 0.6em; text-align: left; }
blockquote { border-left: 4px solid #c33; margin: 0; padding-left: 1em; }
img { max-width: 100%; } pre { overflow-x: auto; background: #f4f4f4; padding: 0.6em; }
video { display: block; }"""


def publish(
    cells: Sequence[Cell],
    done: Mapping[str, Result],
    study: Study,
    warnings: Sequence[str],
    command: str,
) -> None:
    """Print the findings of the finished cells and write the report.

    `done` has the results by the names of their cells. UsageError if a file cannot be written.
    """
    results = [done[cell.name] for cell in cells if cell.name in done]
    agents, findings = [*grouped(results, "agent")], make_findings(results)
    rows = table(findings)
    # A pipe has no width of its own.
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(
        Markdown(_table(rows))
    )
    warned = {
        "Not finished": [cell.name for cell in cells if cell.name not in done],
        "Untrained, or of an unknown number of updates": [
            cell.name for cell in cells if cell.name in done and not done[cell.name].samples
        ],
    }
    frames = " or ".join(dict.fromkeys(f"{cell.config.frames:,}" for cell in cells))
    across = [
        across_games(
            [run for finding in of_screen for run in finding.runs],
            screen,
            expected=sum(cell.config.observe == screen for cell in cells),
        )
        for screen, of_screen in grouped(findings, "screen").items()
    ]
    data = {
        "question": study.question
        or f"Which plays better after {frames} frames: {' or '.join(agents)}?",
        "warnings": [
            *warnings,
            *(f"{about}: {', '.join(names)}" for about, names in warned.items() if names),
        ],
        "command": command,
        "findings": [
            to_jsonable_python(f, exclude={"runs"}, inf_nan_mode="null") for f in findings
        ],
        "across": across,
        "runs": [asdict(result) for result in results],
    }
    machines = (
        ", ".join(f"{k} {v}" for k, v in run.machine.items() if v is not None) for run in results
    )
    with refused(study.out, "written"):
        for folder in ["figures"] + ["films"] * (study.video != "none"):
            (study.out / folder).mkdir(parents=True, exist_ok=True)
        write_json(study.out / "report.json", data)
        write_text(study.out / "scores.csv", scores_csv(results))
        text = render(
            data
            | {
                "table": rows,
                "tasks": _tasks(findings, agents, study.out, study.video != "none"),
                "across": [over | _over_games(over, agents, study.out) for over in across],
                "budgets": budgets(results),
                "metrics": last_metrics(results),
                "settings": differing_settings(results),
                "machines": list(dict.fromkeys(machines)),
                "seconds": CLIP_SECONDS,
            }
        )
        write_text(study.out / "report.md", text)
        write_text(study.out / "report.html", html(text, study.out))
    print(
        f"report      {study.out / 'report.md'}, in one file: {study.out / 'report.html'}",
        flush=True,
    )


# --- figures and films ----------------------------------------------------------------------------


def _tasks(
    findings: Sequence[Finding], agents: list[str], out: Path, with_films: bool
) -> list[dict[str, Any]]:
    """Figures and, if asked for, films of each game and screen."""
    tasks: list[dict[str, Any]] = []
    places = grouped(findings, "game", "screen")
    with progress("report", len(places), "games") as bar:
        for (game, screen), of_task in places.items():
            title = f"{game.replace('_', ' ').title()}, {screen}"
            tasks.append(
                {
                    "title": title,
                    "figures": _figures(of_task, agents, title, out),
                    **_films(of_task if with_films else [], out),
                }
            )
            bar(len(tasks), title)
    return tasks


def _figures(
    findings: Sequence[Finding], agents: list[str], title: str, out: Path
) -> list[tuple[str, str]]:
    """Titles and paths: score against frames, score against core-hours, final scores."""
    stem, figures = f"figures/{file_name(title.lower())}", {}
    best = max(
        *(finding.mean for finding in findings),
        *(point[1] for finding in findings for run in finding.runs for point in run.curve),
        0.0,
    )
    # A level far above all scores would flatten the lines.
    levels = {k: v for k, v in findings[0].levels.items() if k == "random" or v <= 3 * best}
    common: dict[str, Any] = {"names": agents, "levels": levels, "title": title}
    for x in ("million frames", "core-hours"):
        curves = [_curve(finding, x) for finding in findings]
        if lines := [line for line in curves if len(line.x)]:
            figures[f"Score against {x}"] = path = f"{stem}-{x.replace(' ', '-')}.png"
            draw_lines(out / path, lines, xlabel=x, ylabel="score", **common)
    figures["Final scores"] = path = f"{stem}-scores.png"
    draw_bars(
        out / path,
        {f.agent: (f.mean, f.low, f.high) for f in findings},
        singles={f.agent: f.values for f in findings if f.seeds > 1},
        xlabel="final score",
        **common,
    )
    return [*figures.items()]


def _curve(finding: Finding, x: str) -> Line:
    """The learning curve of an agent against `x`: the mean, and the runs if they are several."""
    runs = [(run.curve_x[x], [point[1] for point in run.curve]) for run in finding.runs]
    return Line(finding.agent, *curve_means(finding.runs, x).T, runs=runs if len(runs) > 1 else ())


def _over_games(over: Mapping[str, Any], agents: list[str], out: Path) -> dict[str, Any]:
    """Figures of the measures over games, and their values as a table, header first."""
    slug, figures, rows = file_name(over["screen"]), {}, [["measure", "value (95 % interval)"]]
    pairs = {f"{one} over {other}": values for one, other, *values in over["improvement"]}
    for name, measure, label, bars, names in (
        (
            "interquartile-means",
            "interquartile mean",
            "interquartile mean; 0 is random play, 1 a human",
            over["iqm"],
            agents,
        ),
        (
            "improvement",
            "probability of improvement",
            "probability that a run scores higher",
            pairs,
            (),
        ),
    ):
        if bars:
            figures[label] = path = f"figures/{name}-{slug}.png"
            draw_bars(out / path, bars, names=names, xlabel=label)
        rows += [[f"{measure} of {k}", with_interval(*bar, digits=2)] for k, bar in bars.items()]
    if over["profile"]:
        figures["Performance profiles"] = path = f"figures/profiles-{slug}.png"
        draw_lines(
            out / path,
            [Line(agent, over["levels"], *lines) for agent, lines in over["profile"].items()],
            names=agents,
            xlabel="human-normalised score",
            ylabel="share of runs above it",
        )
    return {"figures": [*figures.items()], "rows": rows}


def _films(findings: Sequence[Finding], out: Path) -> dict[str, list[Any]]:
    """Films of each agent's best episode and its median run's median episode: text and path.

    Also the missing films: text and reason.
    """
    films, missing = [], []
    for finding in findings:
        best = max(finding.runs, key=lambda run: max(run.scores))
        median = finding.runs[middle_and_best([run.mean for run in finding.runs])[0]]
        for which, run, index in (
            ("best", best, middle_and_best(best.scores)[1]),
            ("median", median, middle_and_best(median.scores)[0]),
        ):
            text = f"{finding.agent}, {which} episode: {run.scores[index]:g} (seed {run.seed})"
            try:
                films.append((text, _film(run, index, out)))
            # The record is missing or damaged, or the emulator is another one.
            except (ValueError, RuntimeError) as error:
                missing.append(f"{text}: {error}")
    return {"films": films, "missing": missing}


def _film(run: Result, index: int, out: Path) -> str:
    """The path of a film, which is made unless it exists.

    ValueError if the record cannot be read, RuntimeError if the game does not repeat it.
    """
    record = EpisodeRecord.load(out / run.records / record_name(index))
    crc = zlib.crc32(record.actions.tobytes())
    path = f"films/{Path(run.records).name}-{index:03d}-{crc:08x}.mp4"
    if not (out / path).exists():
        write_clip(record, out / path, scale=1, fast=True)
    return path


# --- files ----------------------------------------------------------------------------------------


def scores_csv(results: Sequence[Result]) -> str:
    """Every score of every run: evaluations during training, final episodes and their mean."""
    header = "agent game screen seed frames kind episode score low_95 high_95".split()
    rows = (
        (r.agent, r.game, r.screen, r.seed, *row)
        for r in results
        for row in (
            *((frames, "evaluation", "", *scores) for frames, *scores in r.curve),
            (r.frames, "final mean", "", r.mean, *r.interval_95),
            *((r.frames, "final", i, score, "", "") for i, score in enumerate(r.scores)),
        )
    )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def escape(value: object) -> str:
    """A value as one line of Markdown that shows its text literally."""
    if isinstance(value, Markup):
        return value
    return re.sub(r"([\\`*_{}\[\]<>|#$~&!])", r"\\\1", " ".join(str(value).split()))


def _table(rows: Sequence[Sequence[str]]) -> Markup:
    header, *lines = (" | ".join(map(escape, row)) for row in rows)
    rule = " | ".join(["---"] * len(rows[0]))
    return Markup("\n".join(f"| {line} |" for line in (header, rule, *lines)))


def render(view: Mapping[str, Any]) -> str:
    """The report as Markdown; it escapes all values of the view, which are text."""
    jinja = Environment(
        loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=escape,
        autoescape=False,
    )
    jinja.filters |= {
        "table": _table,
        "code": lambda text: Markup("    " + text.replace("\n", "\n    ")),
    }
    return re.sub(r"\n{3,}", "\n\n", jinja.get_template("report.md.j2").render(view))


def html(text: str, folder: Path) -> str:
    """The Markdown as one HTML file, with figures and films of `folder` in it.

    OSError if one of them cannot be read.
    """

    def inline(source: re.Match[str]) -> str:
        data = base64.b64encode((folder / unquote(source[1])).read_bytes()).decode()
        return f'src="data:{MIME[source[2]]};base64,{data}"'

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    film = r'<a href="([^"]+\.mp4)">(.*?)</a>'
    body = re.sub(film, r'<span><video controls muted loop src="\1"></video>\2</span>', body)
    body = re.sub(r'src="([^"]+\.(png|mp4))"', inline, body)
    title = body.partition("<h1>")[2].partition("</h1>")[0]
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{STYLE}</style></head>
<body>
{body}</body></html>
"""
