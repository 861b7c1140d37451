"""Scores of trained agents against how much of the screen they see.

With flicker this is the generalisation figure of the DRQN paper (Hausknecht & Stone 2015): each agent is scored at
other probabilities of seeing a frame than it was trained with, on the same evaluation seeds.
"""

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from envs.screens import KINDS, Observe
from experiment.scores.evaluation import Agent, evaluate
from experiment.scores.intervals import mean_interval
from experiment.settings.config import UsageError
from experiment.store.files import refused, write_json

Scores = dict[float | None, list[float]]  # value of the parameter -> scores [episodes]; None: the full screen


def kept(agent: Agent) -> Path:
    """Where its scores over the parameter of its kind of observation are kept."""
    c = agent.config
    settings = f"{c.observe}-e{c.eval_epsilon:g}-n{c.eval_episodes}-s{c.seed}"
    return agent.folder / "eval" / f"{agent.about['frames']:012d}-{c.protocol}-sweep-{settings}.json"


def check_values(kind: str, values: tuple[float, ...]) -> None:
    """UsageError unless the kind has a parameter, and can take these values; each once."""
    if kind in ("", "full"):
        raise UsageError("--sweep: needs --observe with a kind that has a parameter, such as flicker")
    for i, value in enumerate(values):
        try:
            Observe(kind, value)
        except ValueError as error:
            raise UsageError(f"{'--sweep' if kind in KINDS else '--observe'} {error}") from None
        if value in values[:i]:
            raise UsageError(f"--sweep {value:g}: given twice")


def check_agents(agents: list[Agent]) -> None:
    """UsageError unless they can share a figure: one game, one protocol, no agent twice."""
    first = agents[0]
    for i, agent in enumerate(agents):
        for what in ("game", "protocol"):
            one, other = first.about[what], agent.about[what]
            if one != other:
                raise UsageError(f"one figure is of one {what}: {first.folder} is {one}, {agent.folder} is {other}")
        if agent.folder.resolve() in [a.folder.resolve() for a in agents[:i]]:
            raise UsageError(f"{agent.folder}: given twice")


def scores(agent: Agent, values: tuple[float, ...]) -> Iterator[tuple[float | None, list[float]]]:
    """The agent's scores [episodes] at the full screen and at each value; what is missing is played and kept at once.

    UsageError if they cannot be kept.
    """
    c, path = agent.config, kept(agent)
    about = {**agent.about, "sweep": c.observe, "episodes": c.eval_episodes}
    known = _read(path, about)
    for value in dict.fromkeys((KINDS[c.observe].clear, *values)):
        if value not in known:
            seen = {"observe": "full"} if value is None else {"observe_parameter": value}
            config = replace(c, **seen)
            result = evaluate(agent.network, config, agent.protocol)
            known[value] = [float(score) for score in result.scores]
            _write(path, about, known)
        yield value, known[value]


def _read(path: Path, about: dict[str, Any]) -> Scores:
    """What was played before, with the same network and settings. Nothing if the file is another's or damaged."""
    with contextlib.suppress(OSError, ValueError, OverflowError, RecursionError, TypeError, KeyError, AttributeError):
        found = json.loads(path.read_text())
        known = {point["value"]: [float(x) for x in point["scores"]] for point in found["points"]}
        values = [x for value, points in known.items() for x in (value or 0.0, *points)]
        if about.items() <= found.items() and all(math.isfinite(x) for x in values):
            return {value: points for value, points in known.items() if len(points) == about["episodes"]}
    return {}


def _write(path: Path, about: dict[str, Any], known: Scores) -> None:
    points = []
    for value in sorted(known, key=lambda value: -1.0 if value is None else value):
        mean, low, high = _summary(known[value])
        interval = None if math.isnan(low) else [low, high]
        points.append({"value": value, "mean": mean, "interval_95": interval, "scores": known[value]})
    with refused(path, "written"):
        write_json(path, {**about, "points": points})


def _summary(found: list[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval; NaN for the interval of one episode."""
    return float(np.mean(found)), *mean_interval(found)


def draw(agents: list[Agent], found: list[Scores], values: tuple[float, ...], out: Path) -> None:
    """Two panels, score with 95 % interval and share of the full-screen score, a line for each agent. OSError."""
    from matplotlib import style
    from matplotlib.figure import Figure

    kind, config = KINDS[agents[0].config.observe], agents[0].config
    flicker = config.observe == "flicker"  # as in the paper: against the probability of seeing
    x = [1 - value if flicker else value for value in sorted(values)]
    names = [agent.folder.resolve().name for agent in agents]
    if len(set(names)) < len(names):
        names = [str(agent.folder) for agent in agents]
    with style.context("tableau-colorblind10"):
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        score, share = figure.subplots(1, 2)
        left_out: list[str] = []
        for agent, known, name, marker in zip(agents, found, names, "osD^vP*X<>" * len(agents), strict=False):
            mean, low, high = np.transpose([_summary(known[value]) for value in sorted(values)])
            line = score.plot(x, mean, marker=marker, label=f"{name}, {agent.about['frames'] / 1e6:.3g} M frames")[0]
            score.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
            whole = float(np.mean(known[kind.clear]))
            if whole > 0:
                share.plot(x, 100 * mean / whole, marker=marker, color=line.get_color())
            else:  # a share of nothing, or of less, says nothing
                left_out.append(name)
        for panel, label in ((score, "score, 95 % interval"), (share, "% of the score with the full screen")):
            panel.set(xlabel="probability that a frame is seen" if flicker else kind.meaning, ylabel=label)
            panel.grid(alpha=0.3)
        if left_out:
            share.set_title("no full-screen score above 0: " + ", ".join(left_out), fontsize=8)
        score.legend()
        figure.suptitle(
            f"{config.game}, {config.observe}, protocol {config.protocol}: "
            f"{config.eval_episodes} episodes a point, epsilon {config.eval_epsilon:g}"
        )
        figure.savefig(out, dpi=110)


def describe(value: float | None, kind: str, found: list[float]) -> str:
    """One line on the scores at a value."""
    mean, low, high = _summary(found)
    spread = "" if math.isnan(low) else f"   95 % interval {low:.1f} to {high:.1f}"
    return f"{'full' if value is None else f'{kind} {value:g}':16}mean {mean:8.1f}{spread}"
