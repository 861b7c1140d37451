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
from collections.abc import Callable, Iterable
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
from experiment.scores.agent import Agent, open_agent
from experiment.scores.evaluation import Evaluation, check_writable, spread, write_evaluation
from experiment.scores.films import chosen, film_of
from experiment.settings.cli import command, exit_on_usage_error, given
from experiment.settings.config import (
    Episodes,
    Folder,
    Folders,
    Positional,
    Rule,
    Seed,
    Settings,
    UsageError,
    check_effect,
    file_name,
    override,
)
from experiment.store.files import reason, refused


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
    """The agent's view: full, flicker:P, blackout:N, delay:N, blinkered:SHARE or noise:SD. The
    default is that of the training."""
    epsilon: Share = 0.001
    """Share of random actions."""
    seed: Seed = 1
    """Seed of the games and of the random actions; it determines the episodes."""
    video: Literal["best", "median", "all", "none"] = "best"
    """Episodes to film, in colour, 60 pictures a second."""
    overlay: bool = False
    """Add to the films the agent's view, its values and its memory; 15 pictures a second."""
    saliency: bool = False
    """With --overlay: tint pixels by the gradient of the value of the agent's action."""
    side_by_side: bool = False
    """Film two runs next to each other, with the same seeds."""
    watch: Folder | None = None
    """Film this episode record, of any run at any time of training, and play nothing. With
    --overlay the view, values and memory are those of the run's agent."""
    terminal: bool = False
    """Show films in this terminal, in place of files."""
    export: Folder | None = None
    """Write the agent to this folder: settings, weights in half precision, the scores with these
    weights, the learning curve, the best and the median episode, in place of the run's files.
    Commands take such a folder in place of a run's."""
    sweep: str = ""
    """KIND:P,P,... such as flicker:0,0.25,0.5: score each run on each of these screens and draw one
    figure; no films. Evaluations that are in the run's folder already are not repeated."""
    out: Folder | None = None
    """Folder for scores, records and films, in DIR/NAME, in place of the runs' own folders."""
    threads: Whole = 0
    """CPU threads. 0: all cores."""


def screens_of(sweep: str) -> list[Observe]:
    """The screens of KIND:P,P,... UsageError on an invalid one."""
    kind, colon, values = sweep.partition(":")
    with refused(f"--sweep {sweep}", "read"):
        if kind == "full":
            raise ValueError("it has no parameter; name a kind that has, such as flicker:0,0.5")
        return [parse_screen(kind + colon + value) for value in values.split(",")]


def prepare(folder: Path, request: EvaluateConfig) -> Agent:
    """The agent of a run, with the settings of the request. UsageError if either is invalid."""
    words = {name: word for name in ("protocol", "observe") if (word := getattr(request, name))}
    agent = open_agent(
        folder,
        eval_episodes=request.episodes,
        eval_epsilon=request.epsilon,
        seed=request.seed,
        threads=request.threads,
        **words,
    )
    check_effect(agent.config, words)
    return agent


def make_places(agents: list[Agent], request: EvaluateConfig) -> list[Path]:
    """The folders of the agents' scores and films.

    UsageError if one cannot be written, or if two agents would have the same one.
    """
    if request.export:
        check_writable(request.export, request.export / "videos", option="--export")
        return [request.export]
    names = [agent.folder.resolve().name for agent in agents]
    if request.out and (twice := [name for name in names if names.count(name) > 1]):
        raise UsageError(f"--out {request.out}: {twice[0]} is the name of two of the runs")
    places = [request.out / name for name in names] if request.out else [a.folder for a in agents]
    for place in places:
        check_writable(place / "eval", place / "videos")
    return places


def score(
    agent: Agent,
    place: Path | None,
    report: Callable[[Agent, dict[str, Any]], None],
    unwritten: list[str],
) -> Evaluation:
    """Play the episodes, `report` their summary, and write scores and records if given a `place`.

    If they cannot be written, the error is added to `unwritten`, and the work goes on. After
    Ctrl-C: writes the completed episodes, to files that are marked as incomplete, and raises
    KeyboardInterrupt to end the program.
    """
    stop = Event()
    with stop_signals(stop.set):
        result = agent.play(should_stop=stop.is_set)
    total, count = agent.config.eval_episodes, len(result.scores)
    name, about = agent.label, agent.about
    if count < total:
        name, about = f"{name}-first{count}", about | {"planned_episodes": total}
        bias = "; short ones end first, so the mean is biased" * (count > 0)
        print(f"stopped after {count} of {total} episodes{bias}")
    if count:
        summary = result.summary(agent.config.game)
        report(agent, summary)
        if place:
            stem = place / "eval" / name
            try:
                print(f"scores  {write_evaluation(stem, result, summary, about)}")
            except OSError as error:
                unwritten.append(f"{stem}.json: cannot be written ({reason(error)})")
    if count < total:
        raise KeyboardInterrupt
    return result


def print_scores(agent: Agent, summary: dict[str, Any]) -> None:
    """Print the scores, with the agent and the rules of the evaluation."""
    c = agent.config
    training = "UNTRAINED, no update in" if agent.warning else "trained for"
    print(
        f"{c.preset} on {c.game}, protocol {agent.protocol.name}, observe {agent.screen},\n"
        f"{training} {agent.trained['frames']:,} frames, {summary['episodes']} episodes, "
        f"epsilon {c.eval_epsilon:g}\n"
        f"mean    {summary['mean']:.1f}   {spread(summary)}, median {summary['median']:.1f}"
    )
    if summary["human_normalised"] is not None:
        print(
            f"random  {summary['random_score']}   human {summary['human_score']}   "
            f"human-normalised {summary['human_normalised']:.3f}"
        )


# --- a sweep --------------------------------------------------------------------------------------


def print_point(agent: Agent, summary: dict[str, Any]) -> None:
    print(f"{agent.screen!s:16}mean {summary['mean']:8.1f}   {spread(summary)}", flush=True)


def known_scores(agent: Agent, place: Path) -> list[float]:
    """The scores of an earlier evaluation with the same network and settings; [] without one."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged: play again
        data = json.loads((place / "eval" / f"{agent.label}.json").read_text(encoding="utf-8"))
        if isinstance(data, dict) and agent.about.items() <= data.items():
            scores = data["scores"]
            print_point(agent, data)
            return scores
    return []


def sweep(
    agents: list[Agent], screens: list[Observe], request: EvaluateConfig, unwritten: list[str]
) -> None:
    """Score each agent on each screen, first the one that hides nothing, and draw one figure."""
    places = make_places(agents, request)
    kind = KINDS[screens[0].kind]
    clear = Observe() if kind.clear is None else Observe(screens[0].kind, kind.clear)
    series: dict[str, dict[Observe, list[float]]] = {}
    for agent, place in zip(agents, places, strict=True):
        print(f"run     {agent.folder}")
        name = f"{agent.folder}, {agent.warning}{agent.trained['frames'] / 1e6:.3g} M frames"
        scores = series[name] = {}
        for screen in dict.fromkeys([clear, *screens]):
            on = agent.on(screen)
            scores[screen] = (
                known_scores(on, place)
                or known_scores(on, on.folder)
                or score(on, place, print_point, unwritten).scores
            )
    c, out = agents[0].config, places[0] / "eval" / f"{agents[0].on(screens[0]).label}-sweep.png"
    with refused(out, "written"):
        draw_sweep(
            out,
            series,
            f"{c.game}, protocol {agents[0].protocol.name}: {c.eval_episodes} episodes a point, "
            f"epsilon {c.eval_epsilon:g}",
        )
    print(f"figure  {out}")


def check_alike(agents: list[Agent], mode: str) -> None:
    """UsageError unless the agents can be compared: one game and protocol, no run twice."""
    folders = [agent.folder.resolve() for agent in agents]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise UsageError(f"{mode}: {twice[0]} is given twice")
    rules = [f"{agent.config.game}, {agent.protocol.name}" for agent in agents]
    if len(set(rules)) > 1:
        each = "; ".join(f"{folder} is {rule}" for folder, rule in zip(folders, rules, strict=True))
        raise UsageError(f"{mode}: all runs must have one game and protocol: {each}")


# --- films ----------------------------------------------------------------------------------------


def film(
    records: list[EpisodeRecord], agents: list[Agent], request: EvaluateConfig, path: Path
) -> None:
    """Write a film of one record, or of two side by side, or show it in the terminal.

    Any error if the game does not repeat the record; OSError if the file cannot be written.
    """
    pictures = film_of(records, agents, request.overlay, request.saliency)
    if request.terminal:
        return pictures.show(sys.stdout)
    print(f"video   {pictures.write(path)}", flush=True)


def watch(record_file: Path, agents: list[Agent], request: EvaluateConfig) -> None:
    """Film the record in a file. UsageError if it does not fit the agent or cannot be filmed."""
    with refused(record_file, "read"):
        record = EpisodeRecord.load(record_file)
    for agent in agents:
        if (agent.config.game, agent.protocol.name) != (record.game, record.protocol):
            raise UsageError(
                f"--watch {record_file}: records {record.game}, {record.protocol}, unlike "
                f"{agent.folder}"
            )
    place = request.out or record_file.parent
    if not request.terminal:
        check_writable(place)
    name = f"{record_file.stem}-{file_name(record.game)}-score-{record.score:g}"
    with refused(record_file, "filmed"):
        film([record], agents, request, place / f"{name}{marks(request)}.mp4")


def marks(request: EvaluateConfig) -> str:
    """The end of a film's name: the additions to its pictures."""
    return "-overlay" * request.overlay + "-saliency" * request.saliency


# --- the command ----------------------------------------------------------------------------------

# As the IDLE of experiment.settings.config.
IDLE: tuple[Rule, ...] = (
    (("side_by_side", "watch", "export"), ("sweep",), bool),
    (("side_by_side", "export"), ("watch",), bool),
    (("export",), ("side_by_side",), bool),
    (("out",), ("export",), bool),
    (("observe", "video", "overlay", "terminal"), ("sweep",), bool),
    (("episodes", "observe", "epsilon", "seed", "video"), ("watch",), bool),
    (("protocol", "threads"), ("watch", "overlay"), lambda x, y: x and not y),
    (("out",), ("watch", "terminal"), lambda x, y: x and y),
    (("overlay", "terminal"), ("video",), lambda x: x == "none"),
    (("saliency",), ("overlay",), lambda x: not x),
)


def check_together(request: EvaluateConfig, typed: Iterable[str]) -> None:
    """UsageError on flags that exclude each other or have no effect, and on a wrong number of runs.

    `typed`: the settings that the command line names.
    """
    check_effect(request, typed, IDLE)
    one = (int(request.overlay or not request.watch), 1)
    least, most = (1, 10**9) if request.sweep else (2, 2) if request.side_by_side else one
    if not least <= len(request.runs) <= most:
        words = " ".join([command("evaluate"), *map(str, request.runs)])
        raise UsageError(
            f"{words}: takes the folder of one run, such as runs/NAME; two with --side-by-side, "
            "any number with --sweep, none with --watch unless --overlay"
        )


def score_and_film(agents: list[Agent], request: EvaluateConfig, unwritten: list[str]) -> None:
    """Score each agent; export it or film its episodes, as the request says."""
    curve = {}
    if request.export:
        if agents[0].warning:
            raise UsageError(
                f"--export {request.export}: {agents[0].folder} made no update: the agent is "
                "untrained"
            )
        with refused(agents[0].folder, "exported"):
            curve = agents[0].curve()
        agents[0].network.half().float()  # as in the file: the scores are of these weights
    places = make_places(agents, request)
    results = [
        # An export's scores are in its own folder: the run's are those of its unrounded weights.
        score(agent, None if request.export else place, print_scores, unwritten)
        for agent, place in zip(agents, places, strict=True)
    ]
    if request.export:
        with refused(request.export, "written"):
            agents[0].export(results[0], curve, request.export)
        print(f"agent   {request.export}")
    folders = " and ".join(agent.folder.resolve().name for agent in agents)
    c, kind = agents[0].config, f"{agents[0].label}-{request.video}{marks(request)}"
    names = folders if request.side_by_side else f"{c.preset} {c.game}"
    for i in chosen(results[0].scores, request.video):
        records = [result.records[i] for result in results]
        scores = "-".join(f"{record.score:g}" for record in records)
        name = f"{file_name(names)}-{kind}-{i:03d}-score-{scores}"
        with refused(path := places[0] / "videos" / f"{name}.mp4", "filmed"):
            film(records, agents, request, path)


@exit_on_usage_error
def main(argv: list[str]) -> int:
    words = given(
        command("evaluate"), argv, EvaluateConfig(), "Score a trained agent, and film its episodes."
    )
    request = override(EvaluateConfig(), words)
    check_together(request, words)
    screens = screens_of(request.sweep) if request.sweep else []
    agents = [prepare(folder, request) for folder in request.runs]
    check_alike(agents, "--sweep" if request.sweep else "--side-by-side")
    unwritten: list[str] = []
    try:
        if request.watch:
            watch(request.watch, agents, request)
        elif screens:
            sweep(agents, screens, request, unwritten)
        else:
            score_and_film(agents, request, unwritten)
    finally:  # also after Ctrl-C
        if unwritten:
            raise UsageError("; ".join(unwritten))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
