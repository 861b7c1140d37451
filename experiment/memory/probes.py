"""Memory, seen: what the cores can remember, and how far back a trained agent looks.

python -m experiment.memory recall               each core on a small task that needs memory
python -m experiment.memory gradient runs/NAME   how fast the gradient of Q fades, step by step back
python -m experiment.memory horizon runs/NAME    the score when the memory is wiped every k steps

Each writes its figures as JSON and a picture of them beside it. docs/memory.md tells the story.
--help after a name shows its flags.
"""

import shlex
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
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
from envs.recall import CUES, WAITS
from experiment import build
from experiment.memory import task as recall
from experiment.plots import Line, draw_lines
from experiment.scores.agent import Agent, open_agent
from experiment.scores.evaluation import check_writable, spread
from experiment.scores.trace import inputs_of, watched_images
from experiment.settings.cli import exit_on_usage_error, parse
from experiment.settings.config import Episodes, Folder, Positional, Seed, Settings, UsageError
from experiment.settings.resources import cores
from experiment.store.files import refused, write_json


def check_out(out: Path) -> None:
    """UsageError if the figures could not be written there: before the work, not after it."""
    if out.suffix != ".json":
        raise UsageError(f"--out {out}: must end in .json; the picture goes beside it as .png")
    check_writable(out.parent)


def write_figures(
    out: Path, words: list[str], numbers: dict[str, Any], lines: list[Line], **drawn: Any
) -> None:
    """JSON, and a picture beside it. words: of the command line; `drawn` goes to `draw_lines`."""
    picture = out.with_suffix(".png")
    with refused(out, "written"):
        write_json(out, {"command": f"python -m experiment.memory {shlex.join(words)}", **numbers})
        draw_lines(picture, lines, **drawn)
    print(f"figures  {out}\npicture  {picture}")


# --- the recall task ------------------------------------------------------------------------------


@dataclass(frozen=True, config=FORBID)
class RecallConfig(Settings):
    """Train every core on the recall task, and draw its success against the wait."""

    seeds: Annotated[int, Field(ge=1, le=1000)] = 3
    """Networks of each core."""
    updates: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Gradient steps of each network."""
    out: Folder = Path("runs/recall.json")
    """Where the figures go; the picture goes beside them."""


def recall_once(core: str, seed: int, updates: int) -> list[float]:
    """The success of a newly trained network after each of the waits. On one thread."""
    config = recall.settings(core, seed, updates)
    network = recall.train(config)
    return [recall.success(config, network, wait) for wait in WAITS]


def recall_command(asked: RecallConfig, words: list[str]) -> None:
    check_out(asked.out)
    jobs = [(core, seed, asked.updates) for core in CORES for seed in range(1, asked.seeds + 1)]
    runs: dict[str, list[list[float]]] = {core: [] for core in CORES}
    print("share of right answers after a wait of k steps; guessing gives 0.25")
    print("core     seed  " + "  ".join(f"k={wait:<3}" for wait in WAITS))
    # Ctrl-C ends them unheard
    quiet = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_DFL)}
    with ProcessPoolExecutor(cores(), get_context("spawn"), **quiet) as pool:
        for (core, seed, _), shares in zip(
            jobs, pool.map(recall_once, *zip(*jobs, strict=True)), strict=True
        ):
            runs[core].append(shares)
            print(
                f"{core:8} {seed:4}  " + "  ".join(f"{share:<5.2f}" for share in shares), flush=True
            )
    ranges = {
        core: [f(shares, axis=0).tolist() for f in (np.mean, np.min, np.max)]
        for core, shares in runs.items()
    }
    lines = [Line(core, [*map(str, WAITS)], *of_core) for core, of_core in ranges.items()]
    title = (
        f"See a cue, wait, name it. {asked.updates} updates; mean and range of {asked.seeds} seeds"
    )
    axes = {"xlabel": "wait, in steps", "ylabel": "right answers", "ylim": (0, 1.03)}
    numbers = {"updates": asked.updates, "waits": WAITS, "success": runs}
    write_figures(
        asked.out, words, numbers, lines, levels={"guessing": 1 / CUES}, title=title, **axes
    )


# --- a trained agent ------------------------------------------------------------------------------


@dataclass(frozen=True, config=FORBID)
class ProbeConfig(Settings):
    """Flags that both probes of a trained agent share."""

    run: Annotated[Folder | None, Positional] = None
    """Folder of a run, such as runs/NAME."""
    episodes: Episodes = 10
    """Whole episodes to play."""
    epsilon: Share = 0.01
    """Share of random actions. More than in evaluate.py: a wiped agent may wait for ever for a ball
    it never serves."""
    seed: Seed = 1
    """Of the games and the random actions."""
    threads: Whole = 0
    """CPU threads. 0: all cores."""
    out: Folder | None = None
    """Where the figures go; the picture goes beside them. Default: in the run's folder."""


@dataclass(frozen=True, config=FORBID)
class GradientConfig(ProbeConfig):
    """Flags of `gradient`."""

    steps: Annotated[int, Field(ge=1, le=1000)] = 64
    """Largest k: steps into the past."""
    states: Annotated[int, Field(ge=1, le=100_000)] = 64
    """States s_t, spread evenly over the episodes."""
    fresh: Annotated[int, Field(ge=0, le=100)] = 3
    """Untrained networks of each core, for comparison."""


@dataclass(frozen=True, config=FORBID)
class HorizonConfig(ProbeConfig):
    """Flags of `horizon`."""

    every: Annotated[tuple[Count, ...], Field(strict=False)] = (1, 2, 4, 8, 16, 32, 64, 128)
    """The k to try; never wiping comes after them."""


def recurrent(asked: ProbeConfig, kind: str) -> tuple[Agent, str, Path]:
    """The agent, a title, and where its figures go. UsageError on an agent without memory or a
    wrong setting."""
    if asked.run is None:
        raise UsageError(f"{kind} needs the folder of one run, such as runs/NAME")
    changes = {"eval_episodes": asked.episodes, "eval_epsilon": asked.epsilon, "seed": asked.seed}
    agent = open_agent(asked.run, **changes, threads=asked.threads)
    core, out = agent.config.core, asked.out or asked.run / f"{kind}.json"
    if not agent.network.state_size:
        raise UsageError(
            f"{asked.run}: {agent.config.preset} has no memory (core {core}), so it cannot be "
            "probed"
        )
    check_out(out)
    frames = f"{agent.warning}{agent.trained['frames'] / 1e6:.3g} million frames"
    title = f"{agent.config.preset} ({core}) on {agent.config.game}, {frames}"
    return (
        replace(agent, trained={**agent.trained, "core": core, "episodes": asked.episodes}),
        title,
        out,
    )


def gradient_norms(
    network: QNetwork, inputs: Inputs, action: Tensor, ends: list[int], steps: int
) -> np.ndarray:
    """|dQ(s_t, a_t) / dx_{t-k}| for each t in `ends` (rising, not below `steps`), k = 0 ... steps:
    [S, steps + 1].

    x is what enters the convolutions: the stack of images of that step, one image if frame_stack is
    1. The core state at t - steps is the agent's own; last action and reward are held fixed.
    """
    state, at, norms = network.initial_state(1), 0, []
    for t in ends:
        with torch.no_grad():
            if t - steps > at:
                _, state = network(inputs.rows(at, t - steps), state)
        at = t - steps
        with watched_images(network) as images:
            q, _ = network(inputs.rows(at, t + 1), state)  # [steps + 1, 1, A]
        (gradient,) = torch.autograd.grad(q[-1, 0, action[t]], images)
        norms.append(gradient.double().flatten(1).norm(dim=1).flip(0).numpy())
    return np.array(norms)


def gradient_command(asked: GradientConfig, words: list[str]) -> None:
    agent, title, out = recurrent(asked, "gradient")
    config, steps = agent.config, asked.steps
    records = [record for record in agent.play().records if record.steps > steps]
    if not records:
        raise UsageError(f"--steps {steps}: none of the {asked.episodes} episodes is longer")
    share = -(-asked.states // len(records))
    ends = [
        np.unique(np.linspace(steps, record.steps - 1, share, dtype=int)).tolist()
        for record in records
    ]
    rows = [inputs_of(record, config.frame_stack) for record in records]
    networks = {f"{config.core}, trained": [agent.network]}
    for core in CORES:
        changed = [
            replace(config, core=core, seed=agent.trained["train_seed"] + i)
            for i in range(asked.fresh)
        ]
        networks[f"{core}, new"] = [
            build.make_network(c, agent.network.num_actions) for c in changed
        ]
    print("gradient of Q(s_t, a_t) to the input k steps back, against k = 0: median over states")
    shown = [k for k in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if k <= steps]
    print(f"{'core':16}" + "".join(f"k={k:<7}" for k in shown))
    lines, curves = [], {}
    for name, group in networks.items():
        if not any(network.state_size for network in group):
            continue
        shares = [
            gradient_norms(n, *row, end, steps)
            for n in group
            for row, end in zip(rows, ends, strict=True)
        ]
        norms = np.concatenate(shares)  # [S, steps + 1]
        low, median, high = np.quantile(norms / norms[:, :1], (0.25, 0.5, 0.75), axis=0).tolist()
        curves[name] = {
            "networks": len(group),
            "states": len(norms),
            "median": median,
            "quartile_low": low,
            "quartile_high": high,
        }
        lines.append(Line(name, [*range(steps + 1)], median, low, high))
        print(f"{name:16}" + "".join(f"{median[k]:<9.2g}" for k in shown), flush=True)
    title = (
        f"Gradient of Q(s_t, a_t) to the input k steps back\n{title}; median and quartiles over "
        "states"
    )
    axes = {"xlabel": "k, in steps", "ylabel": "against k = 0", "yscale": "log"}
    write_figures(out, words, {**agent.about, "curves": curves}, lines, title=title, **axes)


def horizon_command(asked: HorizonConfig, words: list[str]) -> None:
    agent, title, out = recurrent(asked, "horizon")
    rows: dict[str, dict[str, Any]] = {}
    for k in (*asked.every, 0):
        name, played = str(k or "never"), agent.play(wipe_every=k)
        rows[name] = summary = played.summary(agent.config.game) | {"scores": played.scores}
        print(
            f"wiped every {name:>5} steps   mean {summary['mean']:.1f}   {spread(summary)}",
            flush=True,
        )
    bounds = np.array(
        [[row["mean"], *row["interval_95"]] for row in rows.values()], float
    ).T.tolist()
    random = rows["never"]["random_score"]
    levels = {} if random is None else {"random play": random}
    rules = f"{asked.episodes} episodes, epsilon {asked.epsilon:g}, mean and 95 % interval"
    title = f"Score when the memory is wiped every k steps\n{title};\n{rules}"
    drawn = {"levels": levels, "title": title, "xlabel": "k, in steps", "ylabel": "score"}
    write_figures(
        out, words, {**agent.about, "wiped_every": rows}, [Line("score", [*rows], *bounds)], **drawn
    )


# Name: what runs it, its settings, its help.
COMMANDS: dict[str, tuple[Callable[[Any, list[str]], None], Settings, str]] = {
    "recall": (
        recall_command,
        RecallConfig(),
        "Train every core on the recall task; draw its success against the wait",
    ),
    "gradient": (
        gradient_command,
        GradientConfig(),
        "Measure how fast the gradient of Q fades, step by step back",
    ),
    "horizon": (
        horizon_command,
        HorizonConfig(),
        "Score an agent whose memory is wiped every k steps",
    ),
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
    run, settings, text = COMMANDS[name]
    run(parse(f"experiment.memory {name}", argv[1:], settings, text), argv)
    return 0
