"""The report of a study: `report.md` with figures and films beside it, and the same in one file, `report.html`.

Beside them: `scores.csv` with every score, and `report.json` with all that the report says.
"""

import base64
import csv
import io
import re
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from envs.episodes import replay_colour
from experiment.plots import Bar, Line, draw_bars, draw_lines
from experiment.scores.evaluation import middle_and_best
from experiment.scores.video import write_video
from experiment.store.files import refused, write_json, write_text
from experiment.studies import findings as found
from experiment.studies.findings import Finding
from experiment.studies.study import Cell, Result, Study

FILM_SECONDS = 30
Linked = list[tuple[str, str]]  # text, path relative to the report
STYLE = """body { max-width: 75em; margin: 1em auto; padding: 0 1em; font: 15px/1.45 system-ui, sans-serif; }
table { display: block; overflow-x: auto; border-collapse: collapse; }
th, td { border: 1px solid #ccc; padding: 0.2em 0.6em; text-align: left; }
blockquote { border-left: 4px solid #c33; margin: 0; padding-left: 1em; }
img { max-width: 100%; } pre { overflow-x: auto; background: #f4f4f4; padding: 0.6em; }
video { display: block; }"""


def publish(cells: Sequence[Cell], done: Mapping[str, Result], study: Study, warnings: list[str], command: str) -> None:
    """Print the findings of the finished cells and write the report. UsageError if it cannot be written."""
    results = [done[cell.name] for cell in cells if cell.name in done]
    findings = found.make_findings(results)
    _print(found.table(findings))
    agents = list(dict.fromkeys(result.agent for result in results))
    frames = " or ".join(dict.fromkeys(f"{cell.config.frames:,}" for cell in cells))
    missing = [cell.name for cell in cells if cell.name not in done]
    untrained = [cell.name for cell in cells if cell.name in done and not done[cell.name].samples]
    warnings += [f"Not finished: {', '.join(missing)}"] * bool(missing)
    warnings += [f"Untrained, or of an unknown number of updates: {', '.join(untrained)}"] * bool(untrained)
    with refused(study.out, "written"):
        for folder in ("figures", "films"):
            (study.out / folder).mkdir(parents=True, exist_ok=True)
        across = []
        for screen in dict.fromkeys(finding.screen for finding in findings):
            expected = sum(cell.screen == screen for cell in cells)
            measures = found.across_games([result for result in results if result.screen == screen], expected)
            across.append({"screen": screen, **measures})
        data = {
            "question": study.question or f"Which plays better after {frames} frames: {' or '.join(agents)}?",
            "warnings": warnings,
            "command": command,
        }
        runs = [asdict(result) for result in results]
        plain = {"findings": [_plain(finding) for finding in findings], "across": across, "runs": runs}
        write_json(study.out / "report.json", {**data, **plain})
        write_text(study.out / "scores.csv", scores_csv(results))
        view = data | {
            "findings": found.table(findings),
            "notes": _notes(findings),
            "tasks": _tasks(results, findings, agents, study.out),
            "across": [over | _over_games(over, agents, study.out) for over in across],
            "budgets": found.budgets(results),
            "settings": found.differing_settings(results),
            "rules": _rules(results),
            "seconds": FILM_SECONDS,
        }
        text = render(view)
        write_text(study.out / "report.md", text)
        write_text(study.out / "report.html", html(text, study.out))
    print(f"report      {study.out / 'report.md'}, in one file: {study.out / 'report.html'}", flush=True)


def _plain(finding: Finding) -> dict[str, Any]:
    """Values for JSON, which has no NaN."""
    return {k: None if v != v else v for k, v in asdict(finding).items()} | {"levels": finding.levels}


def _print(rows: list[list[str]]) -> None:
    """A table for a terminal; a pipe gets it 200 columns wide."""
    table = Table(*rows[0])
    for row in rows[1:]:
        table.add_row(*row)
    Console(highlight=False, width=None if sys.stdout.isatty() else 200, markup=False).print(table)


def _notes(findings: Sequence[Finding]) -> list[str]:
    several, one = any(f.seeds > 1 for f in findings), any(f.seeds == 1 for f in findings)
    notes = ["Intervals are 95 %. Higher and lower mean that the interval of the difference excludes 0."]
    notes += ["More than one seed: the interval is over the mean scores of the runs (Student's t)."] * several
    notes += [
        "One seed: the interval is over episodes; the verdict holds for these networks, not for other seeds."
    ] * one
    return [*notes, "Held button: the best mean score of one action at every step (`held_buttons.json`); "
            "normalised: 0 is random play, 1 a human."]  # fmt: skip


def _rules(results: Sequence[Result]) -> list[str]:
    """How the runs were scored and on what they were trained."""

    def each(values: Any) -> str:
        return ", ".join(map(str, dict.fromkeys(values)))

    machines = dict.fromkeys(", ".join(f"{k} {v}" for k, v in r.machine.items() if v is not None) for r in results)
    return [
        f"Protocol {each(r.protocol for r in results)}; final scores: {each(len(r.scores) for r in results)} whole "
        f"episodes a run at epsilon {each(f'{r.epsilon:g}' for r in results)}, evaluation seed "
        f"{each(r.eval_seed for r in results)}; true scores, not clipped.",
        f"{len(results)} runs, training seeds {each(sorted(r.seed for r in results))}; screens in training and "
        f"evaluation: {each(r.screen for r in results)}.",
        f"Learning curves: {each(r.curve_episodes for r in results)} episodes a point; core-hours: training time times "
        "threads, without evaluations.",
        *(f"Trained on: {machine}." for machine in machines),
    ]


# --- figures and films ---------------------------------------------------------------------------------------------


def _tasks(
    results: Sequence[Result], findings: Sequence[Finding], agents: list[str], out: Path
) -> list[dict[str, Any]]:
    """Figures and films of each game and screen."""
    tasks = []
    for game, screen in dict.fromkeys((finding.game, finding.screen) for finding in findings):
        of = [finding for finding in findings if (finding.game, finding.screen) == (game, screen)]
        runs = {f.agent: [r for r in results if (r.game, r.screen, r.agent) == (game, screen, f.agent)] for f in of}
        films, missing = _films(runs, out)
        title = f"{game.replace('_', ' ').title()}, {screen}"
        tasks.append({"title": title, "figures": _figures(runs, of, agents, title, out), "films": films})
        tasks[-1]["missing"] = missing
    return tasks


def _figures(
    runs: Mapping[str, Sequence[Result]], findings: Sequence[Finding], agents: list[str], title: str, out: Path
) -> Linked:
    """Score against frames, score against core-hours, final scores."""
    slug, figures = re.sub(r"[^\w.-]+", "-", title.lower()), []
    best = max(score for f in findings for score in (f.mean, *(p[1] for r in runs[f.agent] for p in r.curve)))
    levels = {k: v for k, v in findings[0].levels.items() if k == "random" or v <= 3 * max(best, 0)}  # else it flattens
    for x, of_run in (("million frames", _million_frames), ("core-hours", lambda run: run.curve_core_hours)):
        lines = [line for agent, group in runs.items() if (line := _line(agent, group, of_run))]
        if lines:
            path = f"figures/{slug}-{x.replace(' ', '-')}.png"
            draw_lines(out / path, lines, names=agents, levels=levels, xlabel=x, ylabel="score", title=title)
            figures.append((f"Score against {x}", path))
    bars = [Bar(f.agent, f.mean, f.low, f.high, f.values if f.seeds > 1 else ()) for f in findings]
    path = f"figures/{slug}-scores.png"
    draw_bars(out / path, bars, names=agents, levels=levels, xlabel="final score", title=title)
    return [*figures, ("Final scores", path)]


def _million_frames(run: Result) -> list[float]:
    return [point[0] / 1e6 for point in run.curve]


def _line(agent: str, runs: Sequence[Result], of_run: Any) -> Line | None:
    """The learning curve of an agent: its mean and the single runs, against x of each run. None without any."""
    means = found.curve_means(runs)  # [points, 4]
    xs = [dict(zip((point[0] for point in run.curve), of_run(run), strict=False)) for run in runs]
    if not len(means) or not all(xs):
        return None
    x = [float(np.mean([of[at] for of in xs])) for at in means[:, 0]]
    single = [(of_run(run), [point[1] for point in run.curve]) for run in runs] if len(runs) > 1 else []
    return Line(agent, x, *means[:, 1:].T, runs=single)


def _over_games(over: Mapping[str, Any], agents: list[str], out: Path) -> dict[str, Any]:
    """Figures of the measures over games, and their values as a table, header first."""
    slug, figures = re.sub(r"[^\w.-]+", "-", over["screen"]), []
    iqm = [Bar(agent, *values) for agent, values in over["iqm"].items()]
    improvement = [Bar(f"{one} over {other}", *values) for one, other, *values in over["improvement"]]
    for name, bars, label in (
        ("interquartile-means", iqm, "interquartile mean; 0 is random play, 1 a human"),
        ("improvement", improvement, "probability that a run scores higher"),
    ):
        if bars:
            path = f"figures/{name}-{slug}.png"
            draw_bars(out / path, bars, names=agents if bars is iqm else (), xlabel=label)
            figures.append((label, path))
    if profiles := [Line(agent, over["levels"], *lines) for agent, lines in over["profile"].items()]:
        path = f"figures/profiles-{slug}.png"
        xlabel, ylabel = "human-normalised score", "share of runs above it"
        draw_lines(out / path, profiles, names=agents, xlabel=xlabel, ylabel=ylabel)
        figures.append(("Performance profiles", path))
    rows = [["measure", "value (95 % interval)"]]
    for kind, bars in (("interquartile mean of", iqm), ("probability of improvement of", improvement)):
        rows += [[f"{kind} {bar.name}", found.with_interval(bar.value, bar.low, bar.high, 2)] for bar in bars]
    return {"figures": figures, "rows": rows}


def _films(runs: Mapping[str, Sequence[Result]], out: Path) -> tuple[Linked, list[str]]:
    """Films of the best episode and of the median episode of the median run of each agent; those left out, and why."""
    films, missing = [], []
    for agent, group in runs.items():
        best = group[middle_and_best([max(run.scores) for run in group])[1]]
        median = group[middle_and_best([run.mean for run in group])[0]]
        for which, run, index in (
            ("best", best, middle_and_best(best.scores)[1]),
            ("median", median, middle_and_best(median.scores)[0]),
        ):
            text = f"{agent}, {which} episode: {run.scores[index]:g} (seed {run.seed})"
            try:
                films.append((text, _film(run, index, out)))
            except (ValueError, RuntimeError) as error:  # a record that is missing or damaged, or another emulator
                missing.append(f"{text}: {error}")
    return films, missing


def _film(run: Result, index: int, out: Path) -> str:
    """The path of a film, made unless it is there. ValueError, RuntimeError if its record cannot be played again."""
    record = run.episode(out, index)
    path = f"films/{Path(run.records).name}-{index:03d}-{zlib.crc32(record.actions.tobytes()):08x}.mp4"
    if not (out / path).exists():
        frames = islice(replay_colour(record, every_frame=True), 60 * FILM_SECONDS)
        write_video(frames, out / path, scale=1, fast=True)
    return path


# --- files ---------------------------------------------------------------------------------------------------------


def scores_csv(results: Sequence[Result]) -> str:
    """Every score of every run: evaluations during training, final episodes and their mean."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow("agent game screen seed frames kind episode score low_95 high_95".split())
    for r in results:
        run = [r.agent, r.game, r.screen, r.seed]
        rows.writerows([*run, frames, "evaluation", "", *scores] for frames, *scores in r.curve)
        rows.writerow([*run, r.frames, "final mean", "", r.mean, *r.interval_95])
        rows.writerows([*run, r.frames, "final", i, score, "", ""] for i, score in enumerate(r.scores))
    return text.getvalue()


def escape(value: object) -> str:
    """Text as Markdown shows it literally, on one line."""
    return (
        value
        if isinstance(value, Markup)
        else re.sub(r"([\\`*_{}\[\]<>|#$~&!])", r"\\\1", " ".join(str(value).split()))
    )


def _table(rows: Sequence[Sequence[str]]) -> Markup:
    lines = [" | ".join(map(escape, row)) for row in rows]
    return Markup("\n".join(f"| {line} |" for line in (lines[0], " | ".join(["---"] * len(rows[0])), *lines[1:])))


def render(view: Mapping[str, Any]) -> str:
    """The report as Markdown. All values of the view are text, escaped here."""
    loader = FileSystemLoader(Path(__file__).parent, encoding="utf-8")
    settings = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined, "finalize": escape}
    jinja = Environment(loader=loader, autoescape=False, **settings)
    jinja.filters |= {"table": _table, "code": lambda text: Markup("    " + text.replace("\n", "\n    "))}
    return re.sub(r"\n{3,}", "\n\n", jinja.get_template("report.md.j2").render(view))


def html(text: str, folder: Path) -> str:
    """The Markdown as one file that opens anywhere and fetches nothing: figures and films lie in it."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    is_film = False
    for token in (child for block in tokens for child in block.children or []):
        if token.type == "image":
            token.attrSet("src", _inline(folder, str(token.attrGet("src")), "image/png"))
        elif token.type == "link_open" and (is_film := str(token.attrGet("href")).endswith(".mp4")):
            source = _inline(folder, str(token.attrGet("href")), "video/mp4")
            token.type, token.content = "html_inline", f'<span><video controls muted loop src="{source}"></video>'
        elif token.type == "link_close" and is_film:
            token.type, token.content = "html_inline", "</span>"
    body, title = parser.renderer.render(tokens, parser.options, {}), parser.renderInline(text.split("\n")[0][2:])
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n'


def _inline(folder: Path, path: str, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode((folder / path).read_bytes()).decode()}"
