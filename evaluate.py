"""Score a trained agent under a protocol, and make videos of its episodes.

python evaluate.py runs/NAME [--episodes 30] [--protocol P] [--observe flicker --hide-probability 0.5]
                             [--epsilon 0.001] [--seed S] [--video best|median|all|none]
python evaluate.py runs/A runs/B ... --observe flicker --sweep 0 0.25 0.5 0.75 1 [--out FIGURE.png]
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiment import build
from experiment.scores import sweep as sweeps
from experiment.scores.evaluation import Agent, evaluate, open_agent, spread, write_evaluation, write_videos
from experiment.settings.cli import exit_on_usage_error, parse_evaluate
from experiment.settings.config import UsageError, check_evaluation, flag
from experiment.store.files import refused


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a trained agent: true game scores of whole episodes, the same number in every env."""

    episodes: int = 30
    """Whole episodes to play."""
    protocol: str = ""
    """v5, machado18 or dqn-2015. Default: the run's own."""
    game: str = ""
    """Only to be sure: refuse the checkpoint unless it was trained on this game."""
    observe: str = ""
    """full, flicker, blackout, delay, blinkered or noise. Default: what the agent was trained on."""
    hide_probability: float | None = None
    """With --observe flicker: probability that a frame is hidden."""
    observe_parameter: float | None = None
    """flicker: probability; blackout: frames hidden at a time; delay: steps; blinkered: share of the height seen;
    noise: standard deviation in grey levels."""
    epsilon: float = 0.001
    """Share of random actions."""
    seed: int = 1
    """Of the games and the random actions; the same seed gives the same episodes."""
    video: Literal["best", "median", "all", "none"] = "best"
    """Episodes to film, in colour, 60 pictures a second."""
    sweep: tuple[float, ...] = ()
    """With --observe KIND: score at each of these parameters, any number of runs, and draw one figure; no films.
    What was played before is not played again."""
    out: Path | None = None
    """With --sweep: the figure, a PNG. Default: beside the scores of the first run."""
    threads: int = 0
    """CPU threads. 0: all cores."""


def prepare(folder: Path, wanted: EvaluateConfig) -> Agent:
    """The agent of a run, ready to be scored as wanted. UsageError if it, or what is wanted of it, makes no sense."""
    changes: dict[str, Any] = {"eval_episodes": wanted.episodes, "eval_epsilon": wanted.epsilon}
    changes |= {"seed": wanted.seed, "threads": wanted.threads}
    if wanted.protocol:
        changes["protocol"] = wanted.protocol
    if wanted.observe:
        changes |= {"observe": wanted.observe, "observe_parameter": None, "hide_probability": None}
    if wanted.hide_probability is not None or wanted.observe_parameter is not None:
        changes |= {"hide_probability": wanted.hide_probability, "observe_parameter": wanted.observe_parameter}
    agent = open_agent(folder, **changes)
    if wanted.game and wanted.game != agent.config.game:
        raise UsageError(f"--game {wanted.game}: {folder} was trained on {agent.config.game}")
    for part in ("eval", "videos"):
        with refused(folder / part, "made"):
            (folder / part).mkdir(exist_ok=True)
    return agent


def check_wanted(folders: list[Path], wanted: EvaluateConfig) -> None:
    """UsageError on values out of range, and on flags that do not go together."""
    check_evaluation(wanted.episodes, wanted.epsilon, seed=wanted.seed)
    if not wanted.sweep:
        if len(folders) > 1:
            raise UsageError(f"{folders[1]}: more than one run needs --sweep")
        if wanted.out is not None:
            raise UsageError(f"--out {wanted.out}: needs --sweep")
        return
    sweeps.check_values(wanted.observe, wanted.sweep)
    for name in ("hide_probability", "observe_parameter"):
        if getattr(wanted, name) is not None:
            raise UsageError(f"{flag(name)} {getattr(wanted, name)}: --sweep gives the values")
    out = wanted.out
    if out is not None and (out.suffix != ".png" or out.is_dir() or not out.parent.is_dir()):
        raise UsageError(f"--out {out}: must be a file NAME.png in a folder that exists")


def sweep(agents: list[Agent], wanted: EvaluateConfig) -> int:
    """Score each agent at each value, and draw them all."""
    sweeps.check_agents(agents)
    out, found = wanted.out or sweeps.kept(agents[0]).with_suffix(".png"), []
    for agent in agents:
        print(f"run     {agent.folder}")
        known = {}
        for value, scores in sweeps.scores(agent, wanted.sweep):
            known[value] = scores
            print(sweeps.describe(value, wanted.observe, scores), flush=True)
        print(f"scores  {sweeps.kept(agent)}")
        found.append(known)
    with refused(out, "written"):
        sweeps.draw(agents, found, wanted.sweep, out)
    print(f"figure  {out}")
    return 0


@exit_on_usage_error
def main(argv: list[str]) -> int:
    folders, wanted = parse_evaluate(argv, EvaluateConfig)
    check_wanted(folders, wanted)
    agents = [prepare(folder, wanted) for folder in folders]
    if wanted.sweep:
        return sweep(agents, wanted)
    (agent,) = agents
    folder, config, preset, frames = agent.folder, agent.config, agent.about["preset"], agent.about["frames"]
    result = evaluate(agent.network, config, agent.protocol)
    summary = result.summary(config.game)

    seen = build.observe(config)
    label = f"{frames:012d}-{config.protocol}-{seen.kind}{seen.parameter:g}"
    label += f"-e{wanted.epsilon:g}-n{wanted.episodes}-s{wanted.seed}"
    about = {**agent.about, "observe": [seen.kind, seen.parameter]}
    with refused(folder / "eval", "written"):
        path = write_evaluation(folder / "eval" / label, result, summary, about)
    print(f"{preset} on {config.game}, protocol {config.protocol}, observe {seen.kind} {seen.parameter:g},")
    print(f"trained for {frames:,} frames, {summary['episodes']} episodes, epsilon {wanted.epsilon:g}")
    error = "" if summary["standard_error"] is None else f", standard error {summary['standard_error']:.2f}"
    print(f"mean    {summary['mean']:.1f}   {spread(summary)}, median {summary['median']:.1f}{error}")
    if summary["human_normalised"] is not None:
        print(f"random  {summary['random_score']}   human {summary['human_score']}   "
              f"human-normalised {summary['human_normalised']:.3f}")  # fmt: skip
    print(f"scores  {path}")
    with refused(folder / "videos", "written"):
        for video in write_videos(result, wanted.video, folder / "videos", f"{preset} {config.game} {label}"):
            print(f"video   {video}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
