"""The Q-network: torso (time folded into the batch) -> core -> head.

Initial weights are torch's own: uniform within 1 / sqrt(fan_in) for convolutions and linear layers,
zero-mean unit scale for LayerNorm; agents/cores.py states those of each core.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from agents.cores import CORES, Core
from agents.fields import FORBID, Count, OneOf, Whole
from agents.heads import HEADS, fully_connected
from agents.losses import LOSSES
from agents.rows import Inputs

# Types of words by their size in bytes: several bytes that move as one word move faster.
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


def stack_frames(planes: Tensor, is_first: Tensor, depth: int) -> Tensor:
    """Stacks [L, B, H, W, K C] of K planes, the oldest first; K = depth.

    planes [K-1+L, B, H, W, C]; is_first [K-1+L, B] on the host. Planes from before the start of the
    row's episode are 0: black, or after standardization the mean image.
    """
    length, channels = planes.shape[0] - depth + 1, planes.shape[-1]
    if word := WORDS.get(channels * planes.element_size()):
        pixels = planes.view(word)[..., 0].unfold(0, length, 1)  # [K, B, H, W, L]
        words = pixels.permute(4, 1, 2, 3, 0).clone(memory_format=torch.contiguous_format)
        stacks = words.view(planes.dtype)
    else:  # slow where a pixel has few bytes
        stacks = torch.cat([planes[start : start + length] for start in range(depth)], dim=-1)
    crosses = torch.zeros_like(is_first[depth - 1 :])  # [L, B], a start between plane and row
    for start in reversed(range(depth - 1)):
        crosses = crosses | is_first[start + 1 : start + 1 + length]
        # Few rows cross a start: their indices cost less than a pass over all pixels.
        row, lane = crosses.nonzero().T.to(stacks.device, non_blocking=True)
        stacks[row, lane, :, :, start * channels : (start + 1) * channels] = 0
    return stacks


class ChannelsLastNorm(nn.LayerNorm):
    """LayerNorm over (C, H, W) of each image, in the channels-last layout without a copy."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__([side, side, channels])

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelsLastFlatten(nn.Module):
    """[N, C, H, W] -> [N, H W C]: a view of the channels-last layout; nn.Flatten would copy."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


class RunningStandard(nn.Module):
    """(pixel - its running mean) / (its running standard deviation + 16 grey levels).

    Most pixels of a game hardly ever change. Without this, they make the convolutions' outputs
    almost the same for every image; large steps enlarge that common part until the rest does not
    pass a LayerNorm, and one action is best everywhere (docs/recipe.md). PQN (Gallici et al. 2024)
    has a BatchNorm here. These statistics are constants of a forward pass, so that acting, training
    and evaluation compute the same function.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(shape))
        self.deviation = nn.Buffer(torch.full(shape, 255.0 - 16))

    @torch.no_grad()
    def update(self, planes: Tensor, weight: float) -> None:
        """Move the statistics to those of planes [L, B, *shape] uint8 by the weight, 0 to 1."""
        planes = planes.flatten(0, 1).to(self.mean.dtype)
        self.mean.lerp_(planes.mean(0), weight)
        variance = (planes - self.mean).square().mean(0)
        self.deviation.square_().lerp_(variance, weight).sqrt_()

    def forward(self, planes: Tensor) -> Tensor:
        scale = 255 / (self.deviation + 16)  # the first convolution divides by 255
        return torch.addcmul((-self.mean * scale).to(planes.dtype), planes, scale.to(planes.dtype))


class PixelConv(nn.Conv2d):
    """A convolution on grey levels 0 to 255: the weights are divided by 255, not every pixel."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight / 255, self.bias)


class TileConv(nn.Conv2d):
    """An 8x8 convolution of stride 4 on grey levels 0 to 255, computed on tiles of 4x4 pixels.

    On tiles it is a 2x2 convolution of stride 1, with the same sums in another order. Matrix
    hardware computes 16 input channels well, and 1 badly.
    """

    def forward(self, input: Tensor) -> Tensor:
        """input [N, 16 K, 21, 21], tiles of 4x4 pixels -> [N, outputs, 20, 20]."""
        w = (self.weight / 255).unflatten(2, (2, 4)).unflatten(4, (2, 4))  # [O, K, Y, 4, X, 4]
        tiles = w.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)  # [O, 16 K, 2, 2]
        return F.conv2d(input, tiles.contiguous(memory_format=torch.channels_last), self.bias)


class Torso(nn.Sequential):
    """Base of the torsos: stacks of planes [N, K C, H, W] -> features [N, output_size]."""

    output_size: int
    tile = 1  # height and width of the tiles whose pixels become channels

    def planes(self, frames: Tensor) -> Tensor:
        """[T, B, H, W] uint8 -> [T, B, H / n, W / n, n n]: tiles of n x n pixels as channels."""
        words = frames.view(WORDS[self.tile])  # [T, B, H, W / n], n pixels of a row each
        return words.unflatten(2, (-1, self.tile)).transpose(3, 4).contiguous().view(torch.uint8)


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


class ConvTorso(Torso):
    """Convolutions of images of 84x84, each with LayerNorm and ReLU or with residual blocks."""

    def __init__(
        self,
        images: int,
        norm: bool,
        frame_shape: tuple[int, int],
        *,
        layers: tuple[tuple[int, int, int, int, int], ...],
        tile: int,
        first: type[nn.Conv2d],
        first_inputs: int,
        pool: bool = False,
        residuals: int = 0,
    ) -> None:
        """ValueError unless frame_shape, the height and width of the images, is (84, 84).

        layers: outputs, kernel, stride, padding and side of the output of each convolution; with
        `pool`, which halves the side, of the pool. first: the class of the first convolution;
        first_inputs: its input channels for each image. residuals: blocks after each convolution.
        """
        if frame_shape != (84, 84):
            raise ValueError(f"takes images of {(84, 84)}, not {frame_shape}; use flat")
        modules: list[nn.Module] = []
        inputs = first_inputs * images
        for outputs, kernel, stride, padding, side in layers:
            conv = nn.Conv2d if modules else first
            modules.append(conv(inputs, outputs, kernel, stride, padding))
            modules += [nn.MaxPool2d(3, 2, padding=1)] * pool
            modules += [Residual(outputs, side, norm) for _ in range(residuals)]
            if not residuals:
                modules += [*[ChannelsLastNorm(outputs, side)] * norm, nn.ReLU()]
            inputs = outputs
        super().__init__(*modules, *[nn.ReLU()] * (residuals > 0), ChannelsLastFlatten())
        self.tile, self.output_size = tile, layers[-1][0] * layers[-1][-1] ** 2


class FlatTorso(Torso):
    """No convolutions: the pixels / 255, [N, H W K], for images of a few pixels."""

    def __init__(self, images: int, norm: bool, frame_shape: tuple[int, int]) -> None:
        super().__init__(ChannelsLastFlatten())
        self.output_size = images * frame_shape[0] * frame_shape[1]

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 255


on_tiles_of_4 = partial(ConvTorso, tile=4, first=TileConv, first_inputs=1)
on_tiles_of_2 = partial(ConvTorso, tile=2, first=PixelConv, first_inputs=4)
STRIDED = (16, 3, 2, 1, 21), (32, 3, 2, 1, 11), (32, 3, 2, 1, 6)
BEFORE_POOLS = (16, 3, 1, 1, 21), (32, 3, 1, 1, 11), (32, 3, 1, 1, 6)
TORSOS: dict[str, Callable[[int, bool, tuple[int, int]], Torso]] = {
    # Mnih et al. 2015 and Mnih et al. 2013, section 4.1.
    "nature": partial(
        on_tiles_of_4, layers=((32, 8, 4, 0, 20), (64, 4, 2, 0, 9), (64, 3, 1, 0, 7))
    ),
    "dqn-2013": partial(on_tiles_of_4, layers=((16, 8, 4, 0, 20), (32, 4, 2, 0, 9))),
    # The stages of IMPALA (Espeholt et al. 2018, figure 3) at half the resolution.
    "half": partial(on_tiles_of_2, layers=BEFORE_POOLS, pool=True, residuals=2),
    "pooled": partial(on_tiles_of_2, layers=BEFORE_POOLS, pool=True),  # half the cost of `half`
    "lean": partial(on_tiles_of_2, layers=STRIDED, residuals=1),  # about the cost of `nature`
    "slim": partial(on_tiles_of_2, layers=STRIDED),  # a third of the multiply-adds of `lean`
    "flat": FlatTorso,
}


@dataclass(frozen=True, config=FORBID)
class NetworkSettings:
    """The network: torso, core and head."""

    frame_stack: Annotated[int, Field(ge=1, le=32)] = 4
    """Images in one input of the network, each 4 frames after the one before."""
    torso: Annotated[str, OneOf(TORSOS)] = "pooled"
    """Convolutions: nature (three, Mnih et al. 2015), dqn-2013 (two, Mnih et al. 2013), half
    (IMPALA's residual stages at half the resolution; twice the work of nature), pooled (the
    convolutions and max-pools of half), lean (half with strides and one residual block a stage;
    about the work of nature), slim (lean without residual blocks; a third of the work) or flat
    (none, for images of a few pixels)."""
    hidden: Whole = 512
    """Width of the fully connected layer after the convolutions, in units. 0: none."""
    core: Annotated[str, OneOf(CORES)] = "lstm"
    """identity (feed-forward), rnn (Elman), lstm1997 (no forget gate), lstm or gru."""
    core_size: Count = 256
    """Units of the recurrent core."""
    head: Annotated[str, OneOf(HEADS)] = "qr"
    """Estimate of the return: mean (trained with --loss), qr (32 quantiles; quantile Huber loss) or
    hl-gauss (a histogram of the mean, 51 bins from -10 to 10; cross-entropy)."""
    head_hidden: Whole = 0
    """Width of a fully connected layer in each stream of the head, in units. 0: none."""
    loss: Annotated[str, OneOf(LOSSES)] = "squared"
    """Loss of a TD error with --head mean: squared (0.5 error^2) or huber (linear beyond 1)."""
    dueling: bool = False
    """Separate value and advantage streams."""
    norm: bool = True
    """LayerNorm after each convolution and fully connected layer; in half and lean before each
    convolution of a residual block."""
    center: bool = False
    """Subtract from each image its median grey level, which is that of the background."""
    standardize: bool = True
    """Map each pixel to (pixel - its running mean) / (its running standard deviation + 16), in grey
    levels from 0 to 255."""
    last_action_reward: bool = True
    """The last action and the last clipped reward are inputs of the core too."""


class QNetwork(nn.Module):
    """Inputs of L rows and a core state [B, S] -> q [L, B, A], state [B, S]; an actor has L = 1.

    The images are standardized, or centred, because an agent otherwise takes long to learn a game
    whose background is bright, such as Pong, or in which few pixels change (docs/recipe.md).
    """

    def __init__(
        self, num_actions: int, settings: NetworkSettings, frame_shape: tuple[int, int] = (84, 84)
    ) -> None:
        """ValueError if the torso does not take images of this height and width."""
        super().__init__()
        s = self.settings = settings
        self.num_actions = num_actions
        torso = TORSOS[s.torso](s.frame_stack, s.norm, frame_shape)
        self.conv: Torso = torso.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.fc = nn.Sequential(*fully_connected(torso.output_size, s.hidden, s.norm))
        features = (s.hidden or torso.output_size) + (num_actions + 1) * s.last_action_reward
        plane = torso.planes(torch.zeros(1, 1, *frame_shape, dtype=torch.uint8)).shape[2:]
        self.pixels = RunningStandard(plane) if s.standardize else None
        self.core: Core = CORES[s.core](features, s.core_size)
        self.state_size = self.core.state_size
        self.head = HEADS[s.head](
            self.core.output_size, num_actions, s.head_hidden, s.dueling, s.norm, s.loss
        )

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros [B, S]."""
        return torch.zeros(batch_size, self.state_size, device=next(self.parameters()).device)

    def update_statistics(self, inputs: Inputs, weight: float) -> None:
        """Move the running statistics, if any, to those of every fourth row by the weight."""
        if self.pixels is not None:
            self.pixels.update(self.conv.planes(inputs.frames[::4]), weight)

    def forward(self, inputs: Inputs, state: Tensor) -> tuple[Tensor, Tensor]:
        out, state = self.outputs(self.prepare(inputs), state)
        return self.head.samples(out).mean(-1), state

    @torch.no_grad()
    def prepare(self, inputs: Inputs) -> Inputs:
        """The same L rows with the convolutions' inputs [L, B, H', W', K C] as frames.

        Pixels become channels; the images are standardized or centred, and stacked. No weight has
        an effect: networks with the same settings and statistics can share the result.
        """
        device = inputs.frames.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else torch.get_default_dtype()
        # Each image is converted once, not in each stack, and to the convolutions' precision.
        planes = self.conv.planes(inputs.frames).to(dtype)  # [K-1+L, B, H', W', C]
        if self.pixels is not None:
            planes = self.pixels(planes)
        elif self.settings.center:
            sparse = inputs.frames[:, :, ::8, ::8].flatten(2)  # enough for the median
            planes = planes - sparse.median(-1).values.to(planes.dtype)[..., None, None, None]
        stacks = stack_frames(planes, inputs.is_first, self.settings.frame_stack)
        return inputs._replace(
            frames=stacks, is_first=inputs.is_first[self.settings.frame_stack - 1 :]
        )

    def outputs(self, view: Inputs, state: Tensor) -> tuple[Tensor, Tensor]:
        """The head's output [L, B, A, K] and the next core state [B, S]; view: from `prepare`."""
        y, state = self.core(self.encode(view), state, view.is_first)
        return self.head(y), state

    def encode(self, view: Inputs) -> Tensor:
        """The core's input [L, B, D]; view: from `prepare`.

        The features of the frames; with --last-action-reward also the last action and reward.
        """
        images = view.frames.flatten(0, 1).permute(0, 3, 1, 2)  # [L B, K C, H', W'], channels last
        x = self.fc(self.conv(images)).unflatten(0, view.prev_action.shape)
        if self.settings.last_action_reward:
            starts = view.is_first.to(x.device, non_blocking=True)  # [L, B]
            action = F.one_hot(view.prev_action, self.num_actions).masked_fill(starts[..., None], 0)
            reward = view.prev_reward.clamp(-1, 1).masked_fill(starts, 0)[..., None]
            x = torch.cat([x, action.to(x.dtype), reward.to(x.dtype)], dim=-1)
        return x
