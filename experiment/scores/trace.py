"""A network's inputs, values and core states in a recorded episode."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agents.networks import QNetwork
from agents.rows import Inputs
from envs.episodes import EpisodeRecord, replay_colour, replay_grey
from experiment import build
from experiment.scores.progress import progress
from experiment.settings.config import Config

CHUNK = 32


@dataclass(frozen=True)
class Trace:
    """An episode of T steps with A actions. A core without memory has S = 0 and no gates."""

    record: EpisodeRecord  # record.score is the true score
    frames: np.ndarray  # [T, H, W] uint8, as the agent saw them
    actions: np.ndarray  # [T] int64, the actions played
    rewards: np.ndarray  # [T] float32, true points
    q: np.ndarray  # [T, A] float32, the mean of the samples of the return
    returns: np.ndarray  # [2, T, A], their quantiles 0.1 and 0.9
    core_states: np.ndarray  # [T, S] float32, after each step
    gates: dict[str, np.ndarray]  # name -> mean opening [T] float32
    saliency: np.ndarray | None  # [T, H, W] float32, |dQ(s_t, a_t) / d pixel of the newest image|

    def render(self, every_frame: bool = False) -> Iterator[np.ndarray]:
        """T + 1 images in colour, uint8 [height, width, 3]; every_frame: all of the emulator's."""
        return replay_colour(self.record, every_frame)


def inputs_of(record: EpisodeRecord, frame_stack: int) -> tuple[Inputs, Tensor]:
    """An episode as input of a network with `frame_stack`, and its actions [T] int64.

    The inputs have T rows of B = 1, after frame_stack - 1 rows of black images. RuntimeError if
    the game does not repeat the record.
    """
    frames, reward = replay_grey(record)  # [T + 1, H, W], [T]
    action = record.actions[record.start :].astype(np.int64)
    before = np.zeros((frame_stack - 1, *frames.shape[1:]), np.uint8)
    is_first = np.arange(1 - frame_stack, record.steps) == 0
    # roll puts the last action and reward into the first row, where the network ignores them.
    rows = np.concatenate([before, frames[:-1]]), is_first, np.roll(action, 1), np.roll(reward, 1)
    return Inputs(*(torch.from_numpy(row[:, None]) for row in rows)), torch.from_numpy(action)


def trace(
    network: QNetwork, config: Config, record: EpisodeRecord, saliency: bool = False
) -> Trace:
    """The trace of a network on a record, at the precision of `config`.

    Torso and head compute CHUNK rows at once, as in an evaluation of CHUNK envs, the core row by
    row. The last bits of a value may differ from the evaluation's, whose batches had other rows.
    """
    inputs, action = inputs_of(record, network.settings.frame_stack)
    autocast = build.autocast(config)
    is_first = torch.zeros(1, 1, dtype=torch.bool)  # no reset: the first state is zeros anyway
    samples, features, states, tints = [], [], [network.initial_state(1)], []
    with progress("values", record.steps, "steps") as bar, torch.set_grad_enabled(saliency):
        for start in range(0, record.steps, CHUNK):
            played = action[start : start + CHUNK, None, None, None]  # [L, 1, 1, 1]
            with autocast():
                view = network.prepare(inputs.rows(start, start + len(played)))
                view.frames.requires_grad_(saliency)  # [L, 1, H', W', K C]
                x, rows = network.encode(view), []  # [L, 1, D]
                for row in x[:, None]:
                    y, state = network.core(row, states[-1], is_first)
                    rows.append(y)
                    states.append(state.detach())
                z = network.head.samples(network.head(torch.cat(rows))).float()  # [L, 1, A, N]
            if saliency:
                q_played = z.take_along_dim(played, 2).mean(-1)  # [L, 1, 1]
                (gradient,) = torch.autograd.grad(q_played.sum(), view.frames)
                # An image enters as side * side channels, one for each pixel of its tiles.
                side = inputs.frames.shape[-1] // gradient.shape[-2]
                newest = gradient[:, 0, ..., -side * side :].permute(0, 3, 1, 2).float().abs()
                tints.append(F.pixel_shuffle(newest, side)[:, 0])  # [L, H, W]
            features.append(x.detach().float()[:, 0])
            samples.append(z.detach()[:, 0])
            bar(start + len(played), "")
    # The gates of a step depend on the state before it.
    gates = network.core.gates(torch.cat(features), torch.cat(states[:-1]))
    sampled = torch.cat(samples).numpy()  # [T, A, N]
    return Trace(
        record,
        frames=inputs.frames[network.settings.frame_stack - 1 :, 0].numpy(),
        actions=action.numpy(),
        rewards=np.roll(inputs.prev_reward[:, 0].numpy(), -1),
        q=sampled.mean(-1),
        returns=np.quantile(sampled, (0.1, 0.9), axis=-1),
        core_states=torch.cat(states[1:]).numpy(),
        gates={name: opening.detach().mean(-1).numpy() for name, opening in gates.items()},
        saliency=torch.cat(tints).numpy() if saliency else None,
    )
