"""What a run will do, printed before it starts."""

import copy
import time

import numpy as np
import psutil
import torch

from agents.rows import Inputs, Sequence
from envs.emulator import FRAME_SKIP, SIZE
from experiment import build
from experiment.settings.config import Config
from experiment.runs.display import duration
from experiment.runs.run import Run

EMULATOR_STEPS = 1_400  # a second on one core of the machine in docs/performance.md: a guess elsewhere


def announce(run: Run) -> None:
    """Game, protocol, network, replay, learning, device and the time it may take."""
    c = run.config
    seen, rate = build.observe(c), estimated_speed(run)
    core = c.core if c.core == "identity" else f"{c.core} {c.core_size}"
    print(f"run         {run.folder}" + (f", resumed at {run.frames:,} frames" if run.frames else ""))
    print(f"game        {c.game}, protocol {c.protocol}, seed {c.seed}, observe {seen.kind} {seen.parameter:g}")
    print(
        f"network     {run.preset}: {c.torso} torso, {c.frame_stack} frame{'s' * (c.frame_stack > 1)}, "
        f"core {core}, {run.parameters:,} parameters, {run.envs.num_actions} actions"
    )
    print(f"replay      {c.replay_rows:,} rows, about {build.replay_gigabytes(c):.2f} GB when full")
    print(f"learning    {c.samples_per_step:g} samples a step, {c.batch_size} x {c.unroll} rows an update")
    print(f"device      {c.device}, {build.precision(c)}, {build.threads(c)} threads")
    load = psutil.getloadavg()[0]
    if load > 0.8 and build.threads(c) > 1:  # barriers wait for a thread that another process has displaced
        print(f"hint        other processes keep this machine busy (load {load:.1f}): --threads 1 may be faster")
    left = max(c.frames - run.frames, 0) / rate
    print(f"length      {c.frames:,} frames, about {duration(left)} at an estimated {rate:,.0f} frames/s", flush=True)


def estimated_speed(run: Run) -> float:
    """Frames a second: from two trial updates of a copy of the learner, and a guess at the emulator's share."""
    c, learner = run.config, copy.deepcopy(run.learner)
    batch = _blank_batch(c, run.learner.online.state_size)
    seconds = []
    for _ in range(2):  # the first one warms up
        start = time.perf_counter()
        learner.update(batch)
        seconds.append(time.perf_counter() - start)
    learning = seconds[-1] * c.samples_per_step / (c.batch_size * c.unroll)  # seconds a step
    return FRAME_SKIP / (learning + 1 / (EMULATOR_STEPS * build.threads(c)))


def _blank_batch(c: Config, state_size: int) -> Sequence:
    """A batch of the run's size that shows nothing."""
    rows, size = c.burn_in + c.unroll + c.n_step, c.batch_size
    with_history = (c.frame_stack - 1 + rows, size)
    action, reward = torch.zeros(rows, size, dtype=torch.int64), torch.zeros(rows, size)
    never = torch.zeros(rows, size, dtype=torch.bool)
    inputs = Inputs(
        torch.zeros(*with_history, SIZE, SIZE, dtype=torch.uint8),
        torch.zeros(*with_history, dtype=torch.bool),
        action,
        reward,
    )
    state, weight = torch.zeros(size, state_size), torch.ones(size)
    return Sequence(inputs, action, reward, never, never, state, weight, np.zeros(size, np.int64))
