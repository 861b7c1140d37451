"""Measurements of memory: of each core on a small task, and of a trained agent.

python -m experiment.memory recall               each core on a small task that needs memory
python -m experiment.memory gradient runs/NAME   how fast the gradient of Q fades, step by step back
python -m experiment.memory horizon runs/NAME    the score when the memory is wiped every k steps

Each writes a JSON file, and a picture beside it (docs/memory.md). --help after a name shows flags.
"""

import shlex
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from agents.cores import CORES
from agents.fields import FORBID, Count, Share, Whole, near
from agents.networks import QNetwork
from agents.rows import Inputs
from envs.games import random_score
from envs.recall import CUES, WAITS
from experiment import build
from experiment.memory import task
from experiment.plots import Line, draw_lines
from experiment.scores.agent import Agent, open_agent
from experiment.scores.evaluation import check_writable, spread
from experiment.scores.trace import inputs_of
from experiment.settings.cli import exit_on_usage_error, parse
from experiment.settings.config import (
    Episodes,
    Folder,
    Positional,
    Seed,
    Settings,
    UsageError,
)
from experiment.settings.resources import cores
from experiment.store.files import refused, write_json


def check_out(out: Path) -> None:
    """Before the work: UsageError if the results cannot be written there."""
    if out.suffix != ".json":
        raise UsageError(f"--out {out}: must end in .json; the picture goes beside it as .png")
    check_writable(out.parent)


def write_figures(
    out: Path, words: list[str], numbers: dict[str, Any], lines: list[Line], **options: Any
) -> None:
    """Write JSON with the command line `words`, and a picture beside it.

    `options` are those of `draw_lines`. UsageError if a file cannot be written.
    """
    picture = out.with_suffix(".png")
    with refused(out, "written"):
        write_json(out, {"command": f"python -m experiment.memory {shlex.join(words)}", **numbers})
        draw_lines(picture, lines, **options)
    print(f"figures  {out}\npicture  {picture}")


# --- the recall task ------------------------------------------------------------------------------


@dataclass(frozen=True, config=FORBID)
class RecallConfig(Settings):
    """Train every core on the recall task; draw its success against the wait."""

    seeds: Annotated[int, Field(ge=1, le=1000)] = 3
    """Networks of each core."""
    updates: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Gradient steps of each network."""
    out: Folder = Path("runs/recall.json")
    """JSON file of the results; the picture goes beside it."""


def recall_once(core: str, seed: int, updates: int) -> list[float]:
    """Train a network on one thread; its success after each of the waits."""
    config = task.settings(core, seed, updates)
    network = task.train(config)
    return [task.success(config, network, wait) for wait in WAITS]


def recall_command(options: RecallConfig, words: list[str]) -> None:
    """`python -m experiment.memory recall`."""
    check_out(options.out)
    runs: dict[str, list[list[float]]] = {core: [] for core in CORES}
    print("share of right answers after a wait of k steps; guessing gives 0.25")
    print("core     seed  " + "  ".join(f"k={wait:<3}" for wait in WAITS))
    seeds = range(1, options.seeds + 1)
    jobs = [(core, seed, options.updates) for core in CORES for seed in seeds]
    # Ctrl-C ends the processes without a traceback.
    quiet = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_DFL)}
    with ProcessPoolExecutor(cores(), get_context("spawn"), **quiet) as pool:
        results = pool.map(recall_once, *zip(*jobs, strict=True))
        for (core, seed, _), shares in zip(jobs, results, strict=True):
            runs[core].append(shares)
            print(f"{core:8} {seed:4}  " + "  ".join(f"{x:<5.2f}" for x in shares), flush=True)
    waits, bands = [*map(str, WAITS)], (np.mean, np.min, np.max)
    write_figures(
        options.out,
        words,
        {"updates": options.updates, "waits": WAITS, "success": runs},
        [
            Line(core, waits, *(band(shares, axis=0).tolist() for band in bands))
            for core, shares in runs.items()
        ],
        levels={"guessing": 1 / CUES},
        title=f"See a cue, wait, name it. {options.updates} updates; "
        f"mean and range of {options.seeds} seeds",
        xlabel="wait, in steps",
        ylabel="right answers",
        ylim=(0, 1.03),
    )


# --- a trained agent ------------------------------------------------------------------------------


@dataclass(frozen=True, config=FORBID)
class ProbeConfig(Settings):
    """Flags of both probes of a trained agent."""

    run: Annotated[Folder | None, Positional] = None
    """Folder of a run, such as runs/NAME."""
    episodes: Episodes = 10
    """Whole episodes to play."""
    epsilon: Share = 0.01
    """Probability of a random action; more than in evaluate.py, since an agent with a wiped memory
    may never serve the ball."""
    seed: Seed = 1
    """Seed of the games and the random actions."""
    threads: Whole = 0
    """CPU threads. 0: all cores."""
    out: Folder | None = None
    """JSON file of the results; the picture goes beside it. Default: in the run's folder."""


@dataclass(frozen=True, config=FORBID)
class GradientConfig(ProbeConfig):
    """Measure how fast the gradient of Q fades, step by step back."""

    steps: Annotated[int, Field(ge=1, le=1000)] = 64
    """Largest k: steps into the past."""
    states: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Number of states s_t, at equal distances in the episodes."""
    fresh: Annotated[int, Field(ge=0, le=100)] = 3
    """Untrained networks of each core, for comparison."""


@dataclass(frozen=True, config=FORBID)
class HorizonConfig(ProbeConfig):
    """Score an agent whose memory is wiped every k steps."""

    every: Annotated[tuple[Count, ...], Field(strict=False)] = (1, 2, 4, 8, 16, 32, 64, 128)
    """The values of k; after them comes a score without wiping."""


def recurrent(options: ProbeConfig, kind: str) -> tuple[Agent, str, Path]:
    """The agent, a title, and the file of the results.

    UsageError on an agent without memory, or on a wrong setting.
    """
    if options.run is None:
        raise UsageError(f"{kind} needs the folder of one run, such as runs/NAME")
    agent = open_agent(
        options.run,
        eval_episodes=options.episodes,
        eval_epsilon=options.epsilon,
        seed=options.seed,
        threads=options.threads,
    )
    c = agent.config
    if not agent.network.state_size:
        raise UsageError(
            f"{options.run}: {c.preset} has no memory (core {c.core}), so it cannot be probed"
        )
    out = options.out or options.run / f"{kind}.json"
    check_out(out)
    frames = f"{agent.warning}{agent.trained['frames'] / 1e6:.3g} million frames"
    about = agent.trained | {"core": c.core, "episodes": options.episodes}
    return replace(agent, trained=about), f"{c.preset} ({c.core}) on {c.game}, {frames}", out


def gradient_norms(
    network: QNetwork, inputs: Inputs, action: Tensor, ends: list[int], steps: int
) -> np.ndarray:
    """Norms |dQ(s_t, a_t) / dx_{t-k}| for each t in `ends`, k = 0 ... steps: [S, steps + 1].

    `ends` has S rising values, none below `steps`. x is the input of the convolutions: the stack of
    images of that step, one image if frame_stack is 1. The core state at t - steps is the agent's
    own; last action and reward are constant.
    """
    state, at, norms = network.initial_state(1), 0, []
    for t in ends:
        if t - steps > at:
            with torch.no_grad():
                _, state = network(inputs.rows(at, t - steps), state)
        at = t - steps
        view = network.prepare(inputs.rows(at, t + 1))
        view.frames.requires_grad_()  # [steps + 1, 1, H', W', K C]
        q = network.head.samples(network.outputs(view, state)[0]).mean(-1)  # [steps + 1, 1, A]
        (gradient,) = torch.autograd.grad(q[-1, 0, action[t]], view.frames)
        norms.append(gradient.double().flatten(1).norm(dim=1).flip(0).numpy())
    return np.array(norms)


def gradient_command(options: GradientConfig, words: list[str]) -> None:
    """`python -m experiment.memory gradient`."""
    agent, title, out = recurrent(options, "gradient")
    config, steps = agent.config, options.steps
    records = [record for record in agent.play().records if record.steps > steps]
    if not records:
        raise UsageError(f"--steps {steps}: none of the {options.episodes} episodes is longer")
    first, num_actions = agent.trained["train_seed"], agent.network.num_actions
    seeds = range(first, first + options.fresh)
    networks = {f"{config.core}, trained": [agent.network]} | {
        f"{core}, new": [
            build.make_network(replace(config, core=core, seed=seed), num_actions) for seed in seeds
        ]
        for core in CORES
    }
    states = -(-options.states // len(records))  # in each episode
    episodes = [
        (
            *inputs_of(record, config.frame_stack),
            np.unique(np.linspace(steps, record.steps - 1, states, dtype=int)).tolist(),
        )
        for record in records
    ]
    print("gradient of Q(s_t, a_t) to the input k steps back, against k = 0: median over states")
    columns = [k for k in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if k <= steps]
    print(f"{'core':16}" + "".join(f"k={k:<7}" for k in columns))
    curves: dict[str, dict[str, Any]] = {}
    for name, group in networks.items():
        if not any(network.state_size for network in group):
            continue
        norms = np.concatenate(  # [S, steps + 1]
            [
                gradient_norms(network, inputs, action, ends, steps)
                for network in group
                for inputs, action, ends in episodes
            ]
        )
        low, median, high = np.quantile(norms / norms[:, :1], (0.25, 0.5, 0.75), axis=0).tolist()
        curves[name] = {
            "networks": len(group),
            "states": len(norms),
            "median": median,
            "quartile_low": low,
            "quartile_high": high,
        }
        print(f"{name:16}" + "".join(f"{median[k]:<9.2g}" for k in columns), flush=True)
    write_figures(
        out,
        words,
        {**agent.about, "curves": curves},
        [
            Line(name, range(steps + 1), c["median"], c["quartile_low"], c["quartile_high"])
            for name, c in curves.items()
        ],
        title="Gradient of Q(s_t, a_t) to the input k steps back\n"
        f"{title}; median and quartiles over states",
        xlabel="k, in steps",
        ylabel="against k = 0",
        yscale="log",
    )


def horizon_command(options: HorizonConfig, words: list[str]) -> None:
    """`python -m experiment.memory horizon`.

    After Ctrl-C: writes the finished values of k, and raises KeyboardInterrupt to end the program.
    """
    agent, title, out = recurrent(options, "horizon")
    rows: dict[str, dict[str, Any]] = {}
    values = (*options.every, 0)
    with suppress(KeyboardInterrupt):
        for k in values:
            name, result = str(k or "never"), agent.play(wipe_every=k)
            rows[name] = row = result.summary(agent.config.game) | {"scores": result.scores}
            print(
                f"wiped every {name:>5} steps   mean {row['mean']:.1f}   {spread(row)}", flush=True
            )
    if not rows:
        raise KeyboardInterrupt
    if len(rows) < len(values):  # a complete result stays
        out = out.with_stem(f"{out.stem}-first{len(rows)}")
    points = [[row["mean"], *row["interval_95"]] for row in rows.values()]
    random = random_score(agent.config.game)
    write_figures(
        out,
        words,
        {**agent.about, "wiped_every": rows},
        [Line("score", [*rows], *np.array(points, float).T.tolist())],
        levels={} if random is None else {"random play": random},
        title=f"Score when the memory is wiped every k steps\n{title};\n"
        f"{options.episodes} episodes, epsilon {options.epsilon:g}, mean and 95 % interval",
        xlabel="k, in steps",
        ylabel="score",
    )
    if len(rows) < len(values):
        print(f"stopped after {len(rows)} of {len(values)} values of k")
        raise KeyboardInterrupt


# Name -> function, settings.
COMMANDS: dict[str, tuple[Callable[[Any, list[str]], None], Settings]] = {
    "recall": (recall_command, RecallConfig()),
    "gradient": (gradient_command, GradientConfig()),
    "horizon": (horizon_command, HorizonConfig()),
}


@exit_on_usage_error
def main(argv: list[str]) -> int:
    if argv[:1] in (["--help"], ["-h"]):
        print(__doc__)
        return 0
    name = argv[0] if argv else ""
    if name not in COMMANDS:
        raise UsageError(
            f"{name!r} is not one of {', '.join(COMMANDS)}.{near(name, list(COMMANDS))} See --help."
        )
    run, settings = COMMANDS[name]
    run(parse(f"experiment.memory {name}", argv[1:], settings), argv)
    return 0
