"""The parts of our training loop: the learner's work, what the overlap wins, the cost of a draw."""

from collections import defaultdict
from collections.abc import Callable
from itertools import cycle

import numpy as np

from agents import workers
from agents.cores import Core
from agents.networks import QNetwork
from agents.rows import Inputs
from benchmarks.common import (
    Effort,
    Row,
    alternate,
    compare,
    go,
    running,
    seconds,
    updates_per_step,
    warm_up,
)
from benchmarks.reel import ENVS, fill, reel
from experiment import build
from experiment.runs.run import Run
from experiment.settings.config import Config

import torch  # isort: skip  (after agents, which sets OpenMP)
from torch import Tensor, nn  # isort: skip
from torch.profiler import ProfilerActivity, profile  # isort: skip

PRESETS = ("drqn", "dqn")
SIZES = (1024, 2048, 4096)  # of square matrices
UPDATES = 20  # a measurement
STEPS = 40  # of all envs, a measurement: a whole number of updates


def row_flops(network: QNetwork) -> tuple[int, int]:
    """Floating-point operations of one row's forward pass, and of its first convolution.

    A multiply-add is two.
    """
    layers: list[int] = []

    def count(module: nn.Module, _: object, output: Tensor | tuple[Tensor, Tensor]) -> None:
        if isinstance(module, Core):
            layers.append(2 * sum(p.numel() for p in module.parameters() if p.ndim >= 2))
        elif isinstance(module, nn.Linear):
            layers.append(2 * module.weight.numel())
        elif isinstance(module, nn.Conv2d):
            assert isinstance(output, Tensor)
            layers.append(2 * module.weight.numel() * output.shape[-2] * output.shape[-1])

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    frames = torch.zeros(network.settings.frame_stack, 1, 84, 84, dtype=torch.uint8)
    first = torch.zeros(network.settings.frame_stack, 1, dtype=torch.bool)
    inputs = Inputs(frames, first, torch.zeros(1, 1).long(), torch.zeros(1, 1))
    with torch.no_grad():
        network(inputs, network.initial_state(1))
    for hook in hooks:
        hook.remove()
    return sum(layers), layers[0]


def update_flops(config: Config, row: int, first: int, state_size: int) -> int:
    """Operations that the equations of one update need.

    The code's further work is not counted. Forward for burn-in rows, trained rows and the rows
    after them, and for all but the first trained row by the network that evaluates, if it is
    another one (it needs that row for its state, if it has one); backward twice the forward for
    trained rows, less the gradient of the pixels. Norms, activations, loss and optimiser count
    nothing.
    """
    burn_in = config.burn_in if state_size else 0
    rows = burn_in + config.unroll + config.n_step
    if config.average or config.target_period:
        rows += rows - (not state_size)
    return config.batch_size * (rows * row + config.unroll * (2 * row - first))


def peak(kind: torch.dtype) -> Callable[[], float]:
    """A measurement of matrix products in GFLOP/s on one thread, in the best of some sizes."""

    def products(size: int) -> Callable[[], float]:
        a, b = (torch.randn(size, size).to(kind) for _ in range(2))
        times = max(round((SIZES[-1] / size) ** 3), 2)
        return lambda: 2e-9 * size**3 / seconds(lambda: a @ b, times)

    sides = [products(size) for size in SIZES]
    for side in sides:
        side()
    return max(sides, key=lambda side: side())


KINDS = {
    "optimiser": ("adam", "optimizer", "foreach", "clip_grad"),
    "LSTM": ("rnn", "lstm"),
    "convolutions": ("conv",),
    "matrix products": ("addmm", "::mm", "mmbackward"),
    "norms": ("layer_norm", "layernorm"),
}


def shares(update: Callable[[], object]) -> dict[str, float]:
    """The share of an update's time by kind of operation.

    Copies, activations and all the rest are elementwise. On one thread: the profiler sees no other.
    """
    workers.use_threads(1)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(UPDATES):
            update()
    times: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        key = event.key.lower()
        kinds = [kind for kind, words in KINDS.items() if any(word in key for word in words)]
        times[(*kinds, "elementwise and copies")[0]] += event.self_cpu_time_total
    total = sum(times.values())
    return {kind: time / total for kind, time in sorted(times.items(), key=lambda item: -item[1])}


def updates_of(run: Run, batches: int = 8) -> Callable[[], object]:
    """The learner's update on batches that were drawn before."""
    drawn = cycle([run.replay.sample(run.config.batch_size) for _ in range(batches)])
    return lambda: run.learner.update(next(drawn))


def learner(effort: Effort) -> list[Row]:
    """The network's work per second in the learner alone, against the machine's matrix products.

    The products are in the precision of training: bf16, or fp32 where the hardware has no bf16.
    """
    rows = []
    for preset in PRESETS:
        with running(preset) as run:
            warm_up(run)
            go(run, STEPS)
            network = run.learner.online
            work = update_flops(run.config, *row_flops(network), network.state_size)
            precision = build.precision(run.config)
            update = updates_of(run)
            products = peak(torch.bfloat16 if precision == "bf16" else torch.float32)
            ours, other = alternate(
                lambda: 1e-9 * work / seconds(update, UPDATES),  # noqa: B023
                products,
                pairs=effort.pairs,
            )
            parts = ", ".join(f"{kind} {share:.0%}" for kind, share in shares(update).items())
        size = f"{work / 1e9:.2f} GFLOP an update, against {precision} matrix products"
        note = f"{size}; its time: {parts}"
        rows.append(compare(f"learner alone, {preset}", ours, other, "GFLOP/s", ">=", 0.55, note))
    return rows


def overlap(effort: Effort) -> list[Row]:
    """The whole loop against the sum of its parts, each alone.

    Appending rows, counting and reporting are in the loop's time but in no part's.
    """
    return [_overlap(preset, effort) for preset in PRESETS]


def _overlap(preset: str, effort: Effort) -> Row:
    with running(preset) as run:
        warm_up(run)
        config, player, rng = run.config, run.player, np.random.default_rng(1)
        epsilon = run.epsilon(run.frames, config.num_envs)
        updates = round(STEPS * updates_per_step(config))

        def play() -> None:
            player.envs.send(rng.integers(player.envs.num_actions, size=config.num_envs))
            player.envs.recv()

        def learn() -> None:
            batch = run.replay.sample(config.batch_size)
            run.replay.update_priorities(batch.origin, run.learner.update(batch).priority)
            run.learner.updates -= 1  # else the loop, ahead of its due, would make none in its turn

        def act() -> None:
            player.actor.act(player.frame, player.is_first, player.prev_reward, epsilon)

        sides = alternate(
            lambda: seconds(lambda: go(run, STEPS)),
            lambda: STEPS * seconds(play, STEPS),
            lambda: STEPS * seconds(act, STEPS),
            lambda: updates * seconds(learn, updates),
            pairs=effort.pairs,
        )
    loop, *parts = ([1e3 * s / STEPS for s in side] for side in sides)
    names = ("environments", "acting", "learning")
    each = [f"{name} {np.median(part):.2f}" for name, part in zip(names, parts, strict=True)]
    note = f"sum of {', '.join(each)}"
    total = [float(sum(pair)) for pair in zip(*parts, strict=True)]
    return compare(f"whole loop, {preset}", loop, total, "ms/step of all envs", "<=", 0.95, note)


def draw(effort: Effort) -> list[Row]:
    """Drawing a batch against the update that uses it."""
    rows = min(effort.rows, 200_000)
    return [_draw(preset, rows, effort.pairs) for preset in PRESETS]


def _draw(preset: str, rows: int, pairs: int) -> Row:
    with running(preset, replay_rows=rows, num_envs=ENVS) as run:
        warm_up(run)
        fill(run.replay, reel(run.config.game), rows, run.learner.online.state_size)
        update, replay, batch = updates_of(run), run.replay, run.config.batch_size
        drawing, updating = alternate(
            lambda: 1e3 * seconds(lambda: replay.sample(batch), UPDATES),
            lambda: 1e3 * seconds(update, UPDATES),
            pairs=pairs,
        )
    note = f"from {rows:,} rows, against the update"
    return compare(f"drawing a batch, {preset}", drawing, updating, "ms", "<=", 0.05, note)
