"""What a study came to: a table, and `report.html`, `report.json`, `report.png` and `scores.csv` in its folder.

Scores are true game scores under one protocol. With one seed the interval is over its evaluation episodes; with
more it is over the runs' mean scores, since episodes of one run say nothing of other seeds (Henderson et al. 2018).
"""

import csv
import io
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from envs.games import human_normalised, human_score, random_score
from experiment.scores.intervals import (
    difference_interval,
    interquartile_mean,
    mean_interval,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)
from experiment.settings.config import to_dict
from experiment.store.files import refused, write_json
from experiment.studies import figures, page
from experiment.studies.clips import make_clips
from experiment.studies.study import Cell

FEW_GAMES = 3  # below it a measure over games says less than each game's own score
MANY_ARMS = 4  # above it not every pair is named
FEW_SEEDS = 5  # below it bootstrap intervals come out too narrow
NOT_AN_AGENTS = ("game", "seed", "name", "runs_dir", "threads", "track")


def write(
    results: list[dict[str, Any]],
    cells: list[Cell],
    out: Path,
    *,
    question: str,
    command: str,
    unfair: list[str],
    missing: list[str],
) -> None:
    """Print the table; write the report's files. UsageError if they cannot be written."""
    study = describe(results, cells) | {"command": command, "unfair": unfair, "missing": missing}
    study["question"] = question or study["question"]
    print_table(study)
    with refused(out, "written"):
        clips, study["clips_missing"] = make_clips(results, out)
        write_json(out / "report.json", study)
        (out / "scores.csv").write_text(numbers := scores_csv(study))
        (out / "report.html").write_text(page.render(study, clips, numbers))
        figures.picture(study, out, out / "report.png")
    for film in filter(None, (cell.film() for cell in cells)):  # the runs', where they are here
        print(f"video       {film}")
    print(f"report      {out / 'report.html'} (figures: report.json, scores.csv; picture: report.png)", flush=True)


def describe(results: list[dict[str, Any]], cells: list[Cell]) -> dict[str, Any]:
    """The study as plain values: all that the page says."""
    arms, games, screens = (list(dict.fromkeys(r[key] for r in results)) for key in ("arm", "game", "screen"))
    table = summary(results)
    across = [
        across_games([r for r in results if r["screen"] == screen], wanted=sum(c.screen == screen for c in cells))
        | {"screen": screen}
        for screen in screens
    ]
    frames = " or ".join(dict.fromkeys(f"{cell.config.frames:,}" for cell in cells))
    return {
        "question": f"Which plays better after {frames} frames: {' or '.join(arms)}?",
        "arms": arms,
        "games": games,
        "screens": screens,
        "conclusions": conclusions(table, across),
        "differences": differences(sorted((c for c in cells if c.arm in arms), key=lambda c: arms.index(c.arm))),
        "budgets": unequal(results),
        "table": table,
        "across": across,
        "runs": results,
    }


def summary(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each game, screen and arm, over its seeds."""
    table = []
    for game, screen, arm in dict.fromkeys((r["game"], r["screen"], r["arm"]) for r in results):
        group = [r for r in results if (r["game"], r["screen"], r["arm"]) == (game, screen, arm)]
        means = [r["mean"] for r in group]
        low, high = mean_interval(means) if len(group) > 1 else group[0]["interval_95"]
        mean = float(np.mean(means))
        table.append(
            {k: group[0][k] for k in ("arm", "game", "screen", "parameters", "frames", "samples", "samples_per_step")}
            | {"spread_of": means if len(group) > 1 else group[0]["scores"]}  # what the interval is over
            | {"seeds": len(group), "mean": mean, "interval_95": [low, high]}
            | {"interval_over": "seeds" if len(group) > 1 else f"{len(group[0]['scores'])} episodes of one run"}
            | {"random": random_score(game), "human": human_score(game), "normalised": human_normalised(game, mean)}
        )
    return sorted(table, key=lambda row: (row["screen"] != "full", row["screen"]))


def across_games(results: list[dict[str, Any]], wanted: int) -> dict[str, Any]:
    """Measures over all games of one screen, of which `wanted` runs are asked for; `why_not` says in words which are
    left out.

    IQM and profile are of human-normalised scores, so of the games that have a human's.
    """
    arms, games, seeds = (list(dict.fromkeys(r[key] for r in results)) for key in ("arm", "game", "seed"))
    known = [game for game in games if human_score(game) is not None]
    scores = {(r["arm"], r["game"], r["seed"]): r["mean"] for r in results}
    found: dict[str, Any] = {"games": games, "known": known, "seeds": len(seeds), "why_not": ""}
    if len(seeds) < 2:
        return found | {"why_not": "One seed: nothing can be said of other seeds, and no measure over games is shown."}
    if len(scores) < wanted:
        return found | {"why_not": "Not all runs are finished: no measure over games is shown yet."}
    rng = np.random.default_rng(0)
    raw = {arm: np.array([[scores[arm, game, seed] for game in games] for seed in seeds]) for arm in arms}
    found["improvement"] = []
    for y, x in combinations(arms, 2):
        pair, measure = (raw[x], raw[y]), probability_of_improvement
        ends = stratified_bootstrap(*pair, statistic=measure, rng=rng, resamples=2_000)
        found["improvement"].append([x, y, *map(float, (measure(*pair), *ends))])
    if len(known) < FEW_GAMES:
        return found | {"why_not": f"{len(known)} game{'s' * (len(known) != 1)} with a human's score: "
                        f"interquartile mean and performance profile need {FEW_GAMES}."}  # fmt: skip
    ends = np.array([[random_score(game), human_score(game)] for game in known], float)  # [games, 2]
    columns = [games.index(game) for game in known]
    tables = {arm: (raw[arm][:, columns] - ends[:, 0]) / (ends[:, 1] - ends[:, 0]) for arm in arms}
    levels = np.linspace(min(0.0, *(t.min() for t in tables.values())), max(t.max() for t in tables.values()), 51)
    found["levels"], found["iqm"], found["profile"] = levels.tolist(), {}, {}
    for arm, table in tables.items():
        ends_of_iqm = stratified_bootstrap(table, statistic=interquartile_mean, rng=rng)
        found["iqm"][arm] = [*map(float, (interquartile_mean(table), *ends_of_iqm))]
        profile = partial(performance_profile, levels=levels)
        ends_of_profile = stratified_bootstrap(table, statistic=profile, rng=rng, resamples=2_000)
        found["profile"][arm] = [line.tolist() for line in (profile(table), *ends_of_profile)]
    return found


def conclusions(table: list[dict[str, Any]], across: list[dict[str, Any]]) -> list[str]:
    """Plain sentences, from the intervals alone: over games first, then each game's own."""
    said = []
    for over in across:
        seen, games = _seen(over["screen"]), len(over["games"])
        for x, y, value, low, high in over.get("improvement", []) if games > 1 else []:
            verdict = "no difference shown"
            if not low <= 0.5 <= high:
                verdict = f"{x if low > 0.5 else y} scores higher more often"
                verdict += f"; {over['seeds']} seeds are too few to call it shown" * (over["seeds"] < FEW_SEEDS)
            said.append(f"Over {games} games{seen}, a run of {x} beats one of {y} with probability {value:.2f} "
                        f"(95 % interval {low:.2f} to {high:.2f}): {verdict}.")  # fmt: skip
    for game, screen in dict.fromkeys((row["game"], row["screen"]) for row in table):
        group = sorted((r for r in table if (r["game"], r["screen"]) == (game, screen)), key=lambda row: -row["mean"])
        means = ", ".join(f"{row['arm']} {row['mean']:.1f}" for row in group)
        said.append(f"{game.replace('_', ' ').title()}{_seen(screen)} ({means}): {_verdicts(group)}")
    return said


def _verdicts(group: list[dict[str, Any]]) -> str:
    """What the rows of one game and screen, the highest first, say of each pair of arms."""
    higher: dict[str, list[str]] = {}
    unclear, single = [], [row["arm"] for row in group if row["seeds"] == 1]
    unlike = 0 < len(single) < len(group)
    for one, other in combinations(group, 2):
        if (one["seeds"] > 1) != (other["seeds"] > 1):  # a spread over seeds beside one over episodes
            continue
        low, high = difference_interval(one["spread_of"], other["spread_of"])
        # A few seeds that all score the same, as agents do that hold one button, tell nothing of the spread.
        if low > 0 and (low < high or one["seeds"] == 1 or min(one["seeds"], other["seeds"]) >= FEW_SEEDS):
            by = f" (by {low:.1f} to {high:.1f})" if len(group) <= MANY_ARMS else ""
            higher.setdefault(one["arm"], []).append(f"{other['arm']}{by}")
        else:
            unclear.append(f"{one['arm']} and {other['arm']}")
    ranked = [row["arm"] for row in group]
    parts = []
    for arm, others in higher.items():
        lowest = len(group) > MANY_ARMS and len(others) > 2 and others == ranked[-len(others) :]
        parts.append(f"{arm} scores higher than " + (f"all from {others[0]} down" if lowest else ", ".join(others)))
    if unclear:
        pairs = "; ".join(unclear) if len(group) <= MANY_ARMS else "the other pairs"
        parts.append("no difference shown" + (f" between {pairs}" if higher or unlike else ""))
    if unlike:
        parts.append(f"not compared with the others: {', '.join(single)}, of which one seed is finished")
    if len(single) > unlike:  # verdicts stand on single runs
        parts.append("one seed: nothing can be said of other seeds; this is of these very networks")
    return "; ".join(parts or ["nothing to compare with"]) + "."


def _seen(screen: str) -> str:
    return "" if screen == "full" else f" with {screen.replace(':', ' ')}"


def differences(cells: list[Cell]) -> list[list[str]]:
    """[setting, its value for each arm], of the settings in which the arms differ."""
    first = {cell.arm: to_dict(cell.config) for cell in reversed(cells)}
    arms = [first[arm] for arm in dict.fromkeys(cell.arm for cell in cells)]
    return [
        [key, *(str(arm[key]) for arm in arms)]
        for key in arms[0]
        if key not in NOT_AN_AGENTS and len({str(arm[key]) for arm in arms}) > 1
    ]


def unequal(results: list[dict[str, Any]]) -> list[str]:
    """In what the finished runs were not given the same, in words."""
    found: dict[str, dict[str, set[object]]] = {"frames": {}, "samples": {}, "precision": {}}  # what -> arm -> values
    for r in results:
        for key, arms in found.items():
            arms.setdefault(r["arm"], set()).add(r["machine"].get(key) if key == "precision" else r[key])
    return [
        f"not equal: {key} " + ", ".join(f"{arm} {' or '.join(sorted(map(str, of)))}" for arm, of in arms.items())
        for key, arms in found.items()
        if len(set.union(*arms.values())) > 1
    ]


def scores_csv(study: dict[str, Any]) -> str:
    """Every number of the plots: each run's evaluations on the way and its final episodes, the means over seeds, and
    the measures over games."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow("arm game screen seed frames what episode score low_95 high_95".split())
    for r in study["runs"]:
        run = [r["arm"], r["game"], r["screen"], r["seed"]]
        rows.writerows([*run, frames, "evaluation", "", *scores] for frames, *scores in r["curve"])
        rows.writerow([*run, r["frames"], "final mean", "", r["mean"], *r["interval_95"]])
        rows.writerows([*run, r["frames"], "final", i, score, "", ""] for i, score in enumerate(r["scores"]))
    for row in (row for row in study["table"] if row["seeds"] > 1):
        about = [row["arm"], row["game"], row["screen"], "all"]
        group = [r for r in study["runs"] if [r["arm"], r["game"], r["screen"]] == about[:3]]
        means = figures.curve_means(group)
        rows.writerows([*about, int(frames), "evaluation", "", *scores] for frames, *scores in means)
        rows.writerow([*about, row["frames"], "final mean", "", row["mean"], *row["interval_95"]])
    for over in study["across"]:
        where = ["all", over["screen"], "all", ""]
        for x, y, *ends in over.get("improvement", []):
            rows.writerow([x, *where, f"probability of improvement over {y}", "", *ends])
        for arm, ends in over.get("iqm", {}).items():
            rows.writerow([arm, *where, "interquartile mean", "", *ends])
        for arm, lines in over.get("profile", {}).items():
            for level, *ends in zip(over["levels"], *lines, strict=True):
                rows.writerow([arm, *where, f"share of runs above {level:.4f}", "", *ends])
    return text.getvalue()


def print_table(study: dict[str, Any]) -> None:
    """The table and the conclusions, for a terminal."""
    first, protocols = study["runs"][0], dict.fromkeys(r["protocol"] for r in study["runs"])
    terms = f"{len(first['scores'])} whole episodes a run, epsilon {first['epsilon']:g}, true scores"
    shown = Table(title=f"protocol {' and '.join(protocols)}, {terms}", title_justify="left")
    names = ("agent", "game", "screen", "parameters", "frames", "samples/step", "seeds", "score (95 % interval)",
             "random", "human", "normalised")  # fmt: skip
    for name in names:
        shown.add_column(name, justify="left" if name in names[:3] else "right", no_wrap=True)
    for row in study["table"]:
        shown.add_row(
            row["arm"], row["game"], row["screen"], f"{row['parameters']:,}", f"{row['frames']:,}",
            f"{row['samples_per_step']:g}", str(row["seeds"]), page.with_interval(row["mean"], *row["interval_95"]),
            *("-" if row[k] is None else f"{row[k]:g}" for k in ("random", "human")),
            "-" if row["normalised"] is None else f"{row['normalised']:.3f}",
        )  # fmt: skip
    console = Console(highlight=False)
    print()
    Console(highlight=False, width=max(console.width, 160)).print(shown)
    over = dict.fromkeys(row["interval_over"] for row in study["table"])
    print(f"interval over {' or '.join(over)}")
    unfair = [f"not a fair comparison: {line}" for line in study["unfair"]]
    missing = [f"not finished: {', '.join(study['missing'])}"] if study["missing"] else []
    for line in [*study["conclusions"], *study["budgets"], *unfair, *missing]:
        print(line)
    for over in study["across"]:
        for arm, (value, low, high) in over.get("iqm", {}).items():
            print(f"{arm}{_seen(over['screen'])}: interquartile mean of human-normalised scores "
                  f"{value:.3f} (95 % interval {low:.3f} to {high:.3f})")  # fmt: skip
