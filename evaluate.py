"""Score a trained agent under a protocol, and make films of its episodes.

python evaluate.py runs/NAME [--episodes 30] [--protocol P] [--observe flicker:0.5]
                             [--epsilon 0.001] [--seed S] [--video best|median|all|none] [--out DIR]
                             [--overlay] [--saliency] [--export DIR]
python evaluate.py runs/A runs/B --side-by-side          the same games next to each other
python evaluate.py runs/A runs/B ... --sweep flicker:0,0.25,0.5,0.75,1
python evaluate.py [runs/NAME --overlay] --watch RECORD.json [--terminal]
"""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Annotated, Any, Literal

from pydantic.dataclasses import dataclass

from agents.fields import FORBID, Share, Whole
from envs.episodes import EpisodeRecord
from envs.screens import KINDS, Observe, parse_screen
from experiment.plots import draw_sweep
from experiment.runs.session import stop_signals
from experiment.scores import zoo
from experiment.scores.agent import Agent, open_agent
from experiment.scores.evaluation import Evaluation, check_writable, spread, write_evaluation
from experiment.scores.films import beside, chosen, game_film, overlay_film, show
from experiment.settings.cli import command, exit_on_usage_error, parse
from experiment.settings.config import (
    Episodes,
    Folder,
    Folders,
    Positional,
    Seed,
    Settings,
    UsageError,
    file_name,
    flag,
    idle,
)
from experiment.store.files import refused


@dataclass(frozen=True, config=FORBID)
class EvaluateConfig(Settings):
    """Score a trained agent: true game scores of whole episodes, the same number in every env."""

    runs: Annotated[Folders, Positional] = ()
    """Folder of a run, such as runs/NAME; with --sweep any number of them."""
    episodes: Episodes = 30
    """Whole episodes to play."""
    protocol: str = ""
    """v5, machado18 or dqn-2015. Default: the run's own."""
    observe: str = ""
    """The agent's view: full, flicker:P, blackout:N, delay:N, blinkered:SHARE or noise:SD. Default:
    as in training."""
    epsilon: Share = 0.001
    """Share of random actions."""
    seed: Seed = 1
    """Of the games and the random actions; the same seed gives the same episodes."""
    video: Literal["best", "median", "all", "none"] = "best"
    """Episodes to film, in colour, 60 pictures a second."""
    overlay: bool = False
    """Films show beside the game what the agent saw, its values, and its memory; 15 pictures a
    second."""
    saliency: bool = False
    """With --overlay: tint the pixels that move the value of the action played (its gradient)."""
    side_by_side: bool = False
    """Film two runs next to each other, on the same seeds."""
    watch: Folder | None = None
    """Film this episode record, of any run and any time of training, and play nothing; with
    --overlay as the run's agent would see and value it."""
    terminal: bool = False
    """Show films in this terminal, in place of files."""
    export: Folder | None = None
    """Write the agent to this folder: settings, weights in half precision (as which it is scored),
    scores, learning curve, its best and its median episode. Commands take such a folder in place of
    a run."""
    sweep: str = ""
    """KIND:P,P,... such as flicker:0,0.25,0.5: score each run on each of these screens and draw one
    figure; no films. Evaluations that lie in the run's folder already are not played again."""
    out: Folder | None = None
    """Folder for scores, records and films in place of the runs' own: everything goes to
    DIR/NAME."""
    threads: Whole = 0
    """CPU threads. 0: all cores."""


def screens_of(sweep: str) -> list[Observe]:
    """The screens that KIND:P,P,... names. UsageError on a wrong one."""
    kind, colon, values = sweep.partition(":")
    try:
        if kind == "full":
            raise ValueError("it has no parameter; name a kind that has, such as flicker:0,0.5")
        return [parse_screen(kind + colon + value) for value in values.split(",")]
    except ValueError as error:
        raise UsageError(f"--sweep {sweep}: {error}") from None


def prepare(folder: Path, asked: EvaluateConfig) -> Agent:
    """The agent of a run, ready to be scored. UsageError if the run or the request is invalid."""
    rules = {"eval_episodes": asked.episodes, "eval_epsilon": asked.epsilon, "seed": asked.seed}
    others = {"protocol": asked.protocol, "observe": asked.observe}
    words = {name: word for name, word in others.items() if word}
    agent = open_agent(folder, threads=asked.threads, **rules, **words)
    if asked.protocol and (game := idle(agent.config, "protocol")):
        raise UsageError(f"--protocol {asked.protocol}: has no effect with {game}")
    return agent


def make_place(agent: Agent, asked: EvaluateConfig) -> Path:
    """The folder of an agent's scores and films. UsageError if it cannot be written: known before
    play."""
    place = asked.out / agent.folder.resolve().name if asked.out else agent.folder
    check_writable(place / "eval", place / "videos")
    return place


def score(agent: Agent, place: Path, tell: Callable[[Agent, dict[str, Any]], None]) -> Evaluation:
    """Play the episodes, tell their summary, write scores and records.

    After Ctrl-C KeyboardInterrupt; the episodes that have ended are written, in files that say so.
    """
    stop = Event()
    with stop_signals(stop.set):
        result = agent.play(should_stop=stop.is_set)
    planned, done = agent.config.eval_episodes, len(result.scores)
    about, stem = agent.about, place / "eval" / agent.label
    if done < planned:
        about, stem = (
            about | {"planned_episodes": planned},
            stem.with_name(f"{stem.name}-first{done}"),
        )
        print(
            f"stopped after {done} of {planned} episodes; short ones end first, so the mean is "
            "biased"
        )
    if done:
        summary = result.summary(agent.config.game)
        tell(agent, summary)
        with refused(stem.parent, "written"):
            print(f"scores  {write_evaluation(stem, result, summary, about)}")
    if done < planned:
        raise KeyboardInterrupt
    return result


def tell(agent: Agent, summary: dict[str, Any]) -> None:
    """Print the scores, and what they were measured with."""
    c = agent.config
    print(f"{c.preset} on {c.game}, protocol {agent.protocol.name}, observe {agent.screen},")
    frames, episodes = agent.trained["frames"], summary["episodes"]
    trained = "UNTRAINED, no update in" if agent.warning else "trained for"
    print(f"{trained} {frames:,} frames, {episodes} episodes, epsilon {c.eval_epsilon:g}")
    print(f"mean    {summary['mean']:.1f}   {spread(summary)}, median {summary['median']:.1f}")
    if summary["human_normalised"] is not None:
        reference = f"random  {summary['random_score']}   human {summary['human_score']}"
        print(f"{reference}   human-normalised {summary['human_normalised']:.3f}")


# --- a sweep --------------------------------------------------------------------------------------


def tell_point(agent: Agent, summary: dict[str, Any]) -> None:
    print(f"{agent.screen!s:16}mean {summary['mean']:8.1f}   {spread(summary)}", flush=True)


def known_scores(agent: Agent, place: Path) -> list[float]:
    """The scores of the same evaluation of the same network, where it was played before; else
    none."""
    with suppress(OSError, ValueError):
        data = json.loads((place / "eval" / f"{agent.label}.json").read_text(encoding="utf-8"))
        if isinstance(data, dict) and agent.about.items() <= data.items():
            tell_point(agent, data)
            return data["scores"]
    return []


def sweep(agents: list[Agent], screens: list[Observe], asked: EvaluateConfig) -> None:
    """Score each agent on each screen, the one on which nothing is hidden first, and draw them
    all."""
    check_sweep(agents)
    places = [make_place(agent, asked) for agent in agents]
    kind = KINDS[screens[0].kind]
    clear = Observe() if kind.clear is None else Observe(screens[0].kind, kind.clear)
    series: dict[str, dict[Observe, list[float]]] = {}
    for agent, place in zip(agents, places, strict=True):
        print(f"run     {agent.folder}")
        scores = series[
            f"{agent.folder}, {agent.warning}{agent.trained['frames'] / 1e6:.3g} M frames"
        ] = {}
        for screen in dict.fromkeys([clear, *screens]):
            on = agent.on(screen)
            scores[screen] = known_scores(on, place) or score(on, place, tell_point).scores
    c, out = agents[0].config, places[0] / "eval" / f"{agents[0].on(screens[0]).label}-sweep.png"
    rules = (
        f"protocol {agents[0].protocol.name}: {c.eval_episodes} episodes a point, epsilon "
        f"{c.eval_epsilon:g}"
    )
    with refused(out, "written"):
        draw_sweep(out, series, f"{c.game}, {rules}")
    print(f"figure  {out}")


def check_sweep(agents: list[Agent]) -> None:
    """UsageError unless the agents can share a figure: one game and protocol, no run twice."""
    played = {
        agent.folder.resolve(): f"{agent.config.game}, {agent.protocol.name}" for agent in agents
    }
    for folder in played:
        if [agent.folder.resolve() for agent in agents].count(folder) > 1:
            raise UsageError(f"--sweep: {folder} is given twice")
    if len(set(played.values())) > 1:
        each = "; ".join(f"{folder} is {rules}" for folder, rules in played.items())
        raise UsageError(f"--sweep: all runs must have one game and protocol: {each}")


# --- films ----------------------------------------------------------------------------------------


def film(
    records: list[EpisodeRecord], agents: list[Agent], asked: EvaluateConfig, path: Path
) -> None:
    """Write a film of one record, or of two side by side, or show it in the terminal."""
    caption = "  |  ".join(
        f"{record.game} {record.observe}  {record.score:g}" for record in records
    )
    if asked.overlay:
        films = [
            overlay_film(agent, record, asked.saliency)
            for agent, record in zip(agents, records, strict=True)
        ]
    else:
        films = [game_film(record) for record in records]
    whole = films[0] if len(films) == 1 else beside(*films)
    if asked.terminal:
        return show(whole, sys.stdout)
    with refused(path, "written"):
        print(f"video   {whole.write(path, None if asked.overlay else caption)}", flush=True)


def watch(record_file: Path, agents: list[Agent], asked: EvaluateConfig) -> None:
    """Film a record that is there already."""
    with refused(record_file, "read"):
        record = EpisodeRecord.load(record_file)
    for agent in agents:
        if (agent.config.game, agent.protocol.name) != (record.game, record.protocol):
            raise UsageError(
                f"--watch {record_file}: records {record.game}, {record.protocol}, unlike "
                f"{agent.folder}"
            )
    place = asked.out or record_file.parent
    if not asked.terminal:
        check_writable(place)
    with refused(record_file, "played again"):
        film([record], agents, asked, place / f"{record_file.stem}.mp4")


# --- the command ----------------------------------------------------------------------------------


# Flags that have no effect in a mode.
IDLE = {
    "--sweep": ("observe", "video", "overlay", "terminal"),
    "--watch": ("episodes", "observe", "epsilon", "seed", "video"),
}


def check_together(asked: EvaluateConfig) -> None:
    """UsageError on flags that do not go together, and on a wrong number of runs."""
    modes = [
        flag
        for flag in ("--sweep", "--side-by-side", "--watch", "--export")
        if getattr(asked, flag[2:].replace("-", "_"))
    ]
    for wrong, message in (
        (len(modes) > 1, f"{' and '.join(modes)} do not go together"),
        (asked.saliency and not asked.overlay, "--saliency: needs --overlay"),
        (
            asked.protocol and not asked.runs,
            f"--protocol {asked.protocol}: has no effect without a run",
        ),
    ):
        if wrong:
            raise UsageError(message)
    for mode in modes:
        for name in IDLE.get(mode, ()):
            if (value := getattr(asked, name)) != getattr(EvaluateConfig(), name):
                raise UsageError(f"{flag(name)} {value}: has no effect with {mode}")
    single = (int(asked.overlay or not asked.watch), 1)
    few, many = (1, 10**9) if asked.sweep else (2, 2) if asked.side_by_side else single
    if not few <= len(asked.runs) <= many:
        takes = (
            "takes the folder of one run, such as runs/NAME; two with --side-by-side, any number "
            "with --sweep"
        )
        raise UsageError(f"{' '.join([command('evaluate'), *map(str, asked.runs)])}: {takes}")


def score_and_film(agents: list[Agent], asked: EvaluateConfig) -> None:
    """Score each agent; export it, or film its episodes, if so asked."""
    places = [make_place(agent, asked) for agent in agents]
    if asked.export:
        if agents[0].warning:
            raise UsageError(
                f"--export {asked.export}: {agents[0].folder} made no update: the agent is "
                "untrained"
            )
        check_writable(asked.export)
        zoo.round_weights(agents[0].network)
    results = [score(agent, place, tell) for agent, place in zip(agents, places, strict=True)]
    if asked.export:
        with refused(asked.export, "written"):
            zoo.export(
                agents[0].network,
                agents[0].config,
                results[0],
                agents[0].about,
                agents[0].folder,
                asked.export,
            )
        print(f"agent   {asked.export}")
    names = " and ".join(
        f"{agent.config.preset} {file_name(agent.config.game)}" for agent in agents
    )
    kind = f"{asked.video}{'-overlay' if asked.overlay else ''}"
    for i in chosen(results[0].scores, asked.video):
        records = [result.records[i] for result in results]
        scores = "-".join(f"{record.score:g}" for record in records)
        name = f"{names} {agents[0].label}-{kind}-{i:03d}-score-{scores}".replace(" ", "-")
        film(records, agents, asked, places[0] / "videos" / f"{name}.mp4")


@exit_on_usage_error
def main(argv: list[str]) -> int:
    asked = parse(
        command("evaluate"), argv, EvaluateConfig(), "Score a trained agent, and film its episodes."
    )
    check_together(asked)
    screens = screens_of(asked.sweep) if asked.sweep else []
    agents = [prepare(folder, asked) for folder in asked.runs]
    if asked.watch:
        watch(asked.watch, agents, asked)
    elif screens:
        sweep(agents, screens, asked)
    else:
        score_and_film(agents, asked)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
