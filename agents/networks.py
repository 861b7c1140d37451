"""The Q-network: torso (time folded into the batch) -> core -> head.

Initial weights are torch's own: uniform within 1 / sqrt(fan_in) for convolutions and linear layers, zero-mean
unit scale for LayerNorm; the cores say theirs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.cores import CORES, Core
from agents.types import Inputs


def stack_frames(frames: Tensor, is_first: Tensor, depth: int) -> Tensor:
    """[K-1+L, B, H, W] frames and [K-1+L, B] starts -> stacks [L, B, K, H, W], oldest first.

    A frame from before the episode's start is black: no stack crosses a reset. The result is laid out
    channels-last, which the convolutions like best.
    """
    length = frames.shape[0] - depth + 1
    planes = []
    hidden = torch.zeros_like(is_first[depth - 1 :])  # [L, B] a start lies between the plane and the row
    for age in range(depth):
        start = depth - 1 - age
        plane = frames[start : start + length]
        planes.append(plane.masked_fill(hidden[..., None, None], 0) if age else plane)
        hidden = hidden | is_first[start : start + length]
    return torch.stack(planes[::-1], dim=-1).movedim(-1, 2)


class ChannelsLastNorm(nn.LayerNorm):
    """LayerNorm over (C, H, W) of each image, computed on the channels-last layout without a copy."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__((side, side, channels))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelsLastFlatten(nn.Module):
    """[N, C, H, W] -> [N, H W C]: a view of the channels-last layout, where nn.Flatten would copy."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


class PixelConv(nn.Conv2d):
    """A convolution on raw grey levels 0..255: the scale 1 / 255 goes into the weights, not over every pixel."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight / 255, self.bias)


class NatureTorso(nn.Sequential):
    """The three convolutions of Mnih et al. 2015: [N, C, 84, 84] -> [N, 3136]."""

    output_size = 3136

    def __init__(self, channels: int, norm: bool) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride, side in (
            (channels, 32, 8, 4, 20),
            (32, 64, 4, 2, 9),
            (64, 64, 3, 1, 7),
        ):
            conv = nn.Conv2d if layers else PixelConv
            layers.append(conv(inputs, outputs, kernel, stride))
            layers += [ChannelsLastNorm(outputs, side)] if norm else []
            layers.append(nn.ReLU())
        super().__init__(*layers, ChannelsLastFlatten())


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x)))) (He et al. 2016, as in IMPALA)."""

    def __init__(self, channels: int, side: int, norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = ChannelsLastNorm(channels, side) if norm else nn.Identity()
        self.norm2 = ChannelsLastNorm(channels, side) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(y)))


class ImpalaTorso(nn.Sequential):
    """The 15 convolutions of the residual network in IMPALA (Espeholt et al. 2018, figure 3):
    [N, C, 84, 84] -> [N, 3872]."""

    output_size = 32 * 11 * 11

    def __init__(self, channels: int, norm: bool) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs, side in ((channels, 16, 42), (16, 32, 21), (32, 32, 11)):
            conv = nn.Conv2d if layers else PixelConv
            layers += [conv(inputs, outputs, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)]
            layers += [Residual(outputs, side, norm), Residual(outputs, side, norm)]
        super().__init__(*layers, nn.ReLU(), ChannelsLastFlatten())


TORSOS: dict[str, type[NatureTorso] | type[ImpalaTorso]] = {"nature": NatureTorso, "impala": ImpalaTorso}


class Head(nn.Module):
    """Q from the core's output: plain, or dueling q = v + a - mean(a) (Wang et al. 2016, eq. 9)."""

    def __init__(self, input_size: int, num_actions: int, dueling: bool) -> None:
        super().__init__()
        self.advantage = nn.Linear(input_size, num_actions)
        self.value = nn.Linear(input_size, 1) if dueling else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., A]"""
        a = self.advantage(x).float()
        if self.value is None:
            return a
        return self.value(x).float() + a - a.mean(-1, keepdim=True)


class QNetwork(nn.Module):
    """Inputs of L rows and a core state [B, S] -> q [L, B, A], state [B, S].

    Acting is L = 1. `hidden` is the width of the fully connected layer between torso and core (0: none).
    With `last_action_reward` the core also sees the previous action (one-hot) and the clipped reward.
    """

    def __init__(
        self,
        num_actions: int,
        *,
        frame_stack: int = 1,
        torso: str = "nature",
        hidden: int = 512,
        core: str = "lstm",
        core_size: int = 512,
        dueling: bool = False,
        norm: bool = False,
        last_action_reward: bool = False,
    ) -> None:
        super().__init__()
        self.num_actions, self.frame_stack = num_actions, frame_stack
        self.last_action_reward = last_action_reward
        conv = TORSOS[torso](frame_stack, norm).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        layers: list[nn.Module] = [conv]
        size = conv.output_size
        if hidden:
            layers.append(nn.Linear(size, hidden))
            layers += [nn.LayerNorm(hidden)] if norm else []
            layers.append(nn.ReLU())
            size = hidden
        self.torso = nn.Sequential(*layers)
        extra = num_actions + 1 if last_action_reward else 0
        self.core: Core = CORES[core](size + extra, core_size)
        self.head = Head(self.core.output_size, num_actions, dueling)

    @property
    def state_size(self) -> int:
        return self.core.state_size

    def initial_state(self, batch_size: int) -> Tensor:
        return self.core.initial_state(batch_size).to(self.head.advantage.weight.device)

    def forward(self, inputs: Inputs, state: Tensor) -> tuple[Tensor, Tensor]:
        is_first = inputs.is_first[self.frame_stack - 1 :]  # [L, B]
        stacks = stack_frames(inputs.frames, inputs.is_first, self.frame_stack)  # [L, B, K, H, W]
        x = self.torso(stacks.flatten(0, 1).to(_compute_dtype(stacks))).unflatten(0, is_first.shape)  # [L, B, D]
        if self.last_action_reward:
            action = F.one_hot(inputs.prev_action, self.num_actions).masked_fill(is_first[..., None], 0)
            reward = inputs.prev_reward.clamp(-1, 1).masked_fill(is_first, 0)[..., None]
            x = torch.cat([x, action.to(x.dtype), reward.to(x.dtype)], dim=-1)
        y, state = self.core(x, state, is_first)
        return self.head(y), state


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The precision the convolutions will run in: uint8 is converted once, straight to it."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.get_default_dtype()
