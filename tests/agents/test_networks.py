import pytest
import torch
from torch import Tensor, nn

from agents.cores import CORES
from agents.networks import (
    TORSOS,
    ChannelsLastFlatten,
    ChannelsLastNorm,
    FlatTorso,
    HalfTorso,
    NatureTorso,
    NetworkSettings,
    PixelConv,
    QNetwork,
    Residual,
    TileConv,
    stack_frames,
)
from agents.rows import Inputs

L, B, A = 7, 3, 4
SMALL = {"hidden": 8, "core_size": 6, "norm": False, "center": False, "last_action_reward": False}


def make(seed: int = 0, **settings: object) -> QNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return QNetwork(A, NetworkSettings(**(SMALL | settings)))  # type: ignore[arg-type]


def inputs(length: int = L, depth: int = 1, starts: float = 0.25, seed: int = 1) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    rows = depth - 1 + length
    return Inputs(
        torch.randint(0, 256, (rows, B, 84, 84), dtype=torch.uint8, generator=generator),
        torch.rand(rows, B, generator=generator) < starts,
        torch.randint(0, A, (length, B), generator=generator),
        2 * torch.randn(length, B, generator=generator),
    )


def parameter_count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- frame stacks


def naive_stack(planes: Tensor, is_first: Tensor, depth: int) -> Tensor:
    """The stacks an agent would build that walks through the rows and blackens its stack at every start."""
    length, lanes, height, width, channels = planes.shape
    stacks = torch.zeros(length - depth + 1, lanes, height, width, depth * channels, dtype=planes.dtype)
    for lane in range(lanes):
        stack = [torch.zeros_like(planes[0, 0])] * depth
        for t in range(length):
            if is_first[t, lane]:
                stack = [torch.zeros_like(planes[0, 0])] * depth
            stack = [*stack[1:], planes[t, lane]]
            if t >= depth - 1:
                stacks[t - depth + 1, lane] = torch.cat(stack, dim=-1)
    return stacks


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_stacks_equal_those_built_row_by_row(depth: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(depth)
    for starts in (0.0, 0.1, 0.4, 1.0):
        planes = torch.randint(1, 256, (depth + 19, 5, 2, 3, channels), dtype=torch.uint8, generator=generator)
        is_first = torch.rand(depth + 19, 5, generator=generator) < starts
        assert torch.equal(stack_frames(planes, is_first, depth), naive_stack(planes, is_first, depth))


def test_no_stack_crosses_a_reset() -> None:
    planes = torch.tensor([99, 99, 3, 4, 5, 6], dtype=torch.uint8).reshape(6, 1, 1, 1, 1)
    is_first = torch.tensor([False, False, True, False, False, False])[:, None]
    stacks = stack_frames(planes, is_first, 4)[:, 0, 0, 0]  # rows 3, 4, 5; oldest image first
    assert stacks.tolist() == [[0, 0, 3, 4], [0, 3, 4, 5], [3, 4, 5, 6]]


# --- layers


def test_pixel_conv_is_a_convolution_of_pixels_between_0_and_1() -> None:
    conv = PixelConv(2, 3, 3, padding=1)
    x = torch.randint(0, 256, (2, 2, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    expected = nn.functional.conv2d(x / 255, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize("images", [1, 4])
def test_tile_conv_is_the_8x8_convolution_of_stride_4_of_pixels_between_0_and_1(images: int) -> None:
    conv = TileConv(images, 5)
    frames = inputs(length=1, depth=images).frames  # [K, B, 84, 84]
    tiles = stack_frames(NatureTorso.planes(frames), torch.zeros(images, B, dtype=torch.bool), images)[0]
    expected = nn.functional.conv2d(frames.transpose(0, 1) / 255, conv.weight, conv.bias, stride=4)
    torch.testing.assert_close(conv(tiles.permute(0, 3, 1, 2).float()), expected, rtol=1e-4, atol=1e-5)


def test_channels_last_norm_is_layer_norm_over_channels_height_and_width() -> None:
    generator = torch.Generator().manual_seed(0)
    norm, reference = ChannelsLastNorm(3, 5), nn.LayerNorm([3, 5, 5])
    with torch.no_grad():
        norm.weight.copy_(torch.randn(5, 5, 3, generator=generator))
        norm.bias.copy_(torch.randn(5, 5, 3, generator=generator))
        reference.weight.copy_(norm.weight.permute(2, 0, 1))
        reference.bias.copy_(norm.bias.permute(2, 0, 1))
    x = torch.randn(4, 3, 5, 5, generator=generator)
    torch.testing.assert_close(norm(x), reference(x))


def test_channels_last_flatten_puts_channels_last() -> None:
    x = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    flat = ChannelsLastFlatten()(x)
    assert flat.shape == (2, 4 * 5 * 3)
    assert flat[1, 2 * 5 * 3 + 4 * 3 + 1] == x[1, 1, 2, 4]


# --- torsos


def naive_nature(torso: NatureTorso, frames: Tensor) -> Tensor:
    """Mnih et al. 2015, Methods, in torch's own layers and layout: [N, K, 84, 84] uint8 -> [N, 3136]."""
    x = frames.float() / 255
    stride = iter((4, 2, 1))
    for layer in torso:
        if isinstance(layer, nn.Conv2d):
            x = nn.functional.conv2d(x, layer.weight, layer.bias, stride=next(stride))
        elif isinstance(layer, nn.LayerNorm):
            weight, bias = layer.weight.permute(2, 0, 1), layer.bias.permute(2, 0, 1)
            x = nn.functional.layer_norm(x, weight.shape, weight, bias)
        elif isinstance(layer, nn.ReLU):
            x = x.relu()
    return x.permute(0, 2, 3, 1).flatten(1)


@pytest.mark.parametrize("norm", [False, True])
def test_the_nature_torso_is_three_plain_convolutions(norm: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torso = NatureTorso(4, norm)
    frames = inputs(length=1, depth=4).frames  # [4, B, 84, 84]
    tiles = stack_frames(torso.planes(frames), torch.zeros(4, B, dtype=torch.bool), 4)[0]
    expected = naive_nature(torso, frames.transpose(0, 1))
    assert expected.shape == (B, 3136)
    torch.testing.assert_close(torso(tiles.permute(0, 3, 1, 2).float()), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("torso", TORSOS)
@pytest.mark.parametrize("norm", [False, True])
def test_a_torso_gives_its_output_size(torso: str, norm: bool) -> None:
    kind = TORSOS[torso]
    conv = kind(2, norm, (84, 84)) if kind is FlatTorso else kind(2, norm)
    frames = inputs(length=1, depth=2).frames
    stacks = stack_frames(conv.planes(frames), torch.zeros(2, B, dtype=torch.bool), 2)[0]
    assert conv(stacks.permute(0, 3, 1, 2).float()).shape == (B, conv.output_size)


def test_the_nature_network_of_2015_has_its_number_of_parameters() -> None:
    network = make(frame_stack=4, torso="nature", hidden=512, core="identity", norm=False)
    convolutions = 4 * 8 * 8 * 32 + 32 + 32 * 4 * 4 * 64 + 64 + 64 * 3 * 3 * 64 + 64
    linear = 7 * 7 * 64 * 512 + 512 + 512 * 4 + 4
    assert parameter_count(network) == convolutions + linear == 1_686_180


def test_norm_adds_a_scale_and_a_shift_for_each_of_its_inputs() -> None:
    plain, normed = (make(hidden=512, core="identity", norm=norm) for norm in (False, True))
    more = 2 * (20 * 20 * 32 + 9 * 9 * 64 + 7 * 7 * 64 + 512)
    assert parameter_count(normed) - parameter_count(plain) == more


def naive_half(torso: HalfTorso, frames: Tensor) -> Tensor:
    """IMPALA's stages in torch's own layout on images whose 2x2 tiles are channels: [N, 84, 84] uint8 -> [N, 1152]."""
    x = nn.functional.pixel_unshuffle(frames[:, None].float() / 255, 2)  # [N, 4, 42, 42]
    for layer in torso:
        if isinstance(layer, nn.Conv2d):
            x = nn.functional.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)
        elif isinstance(layer, nn.MaxPool2d):
            x = nn.functional.max_pool2d(x, 3, 2, padding=1)
        elif isinstance(layer, Residual):
            x = x + layer.conv2(layer.conv1(x.relu()).relu())
    return x.relu().permute(0, 2, 3, 1).flatten(1)


@pytest.mark.parametrize(("torso", "convolutions"), [("half", 3 * 5), ("lean", 3 * 3)])
def test_a_half_torso_is_impalas_stages_on_tiles_of_2x2_pixels(torso: str, convolutions: int) -> None:
    conv, frames = TORSOS[torso](1, False), inputs(length=1).frames[0]
    assert isinstance(conv, HalfTorso)
    assert sum(isinstance(m, nn.Conv2d) for m in conv.modules()) == convolutions
    images = conv.planes(frames[None])[0].permute(0, 3, 1, 2).float()
    torch.testing.assert_close(conv(images), naive_half(conv, frames), rtol=1e-3, atol=1e-4)


# --- the whole network


@pytest.mark.parametrize("torso", ["nature", "half"])
def test_a_centred_network_sees_the_same_game_on_any_background(torso: str) -> None:
    """What is seen of the median grey is nothing, so on black nothing changes, bit for bit."""
    seen = inputs(depth=2)
    things = torch.zeros_like(seen.frames)
    things[..., 20:40, 30:50] = 60  # less than half of the screen
    plain, centred = (make(frame_stack=2, torso=torso, core="identity", center=c) for c in (False, True))
    state = plain.initial_state(B)
    seen = seen._replace(is_first=torch.zeros_like(seen.is_first))

    def q(network: QNetwork, grey: int) -> Tensor:
        return network(seen._replace(frames=things + grey), state)[0]

    assert torch.equal(q(centred, 0), q(plain, 0))
    torch.testing.assert_close(q(centred, 87), q(centred, 0), rtol=0, atol=1e-6)
    assert (q(plain, 87) - q(plain, 0)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("core", "torso", "depth"),
    [*((core, "nature", depth) for core in CORES for depth in (1, 3)), ("lstm", "half", 2), ("lstm", "lean", 2)],
)
def test_acting_with_one_row_at_a_time_equals_an_unroll(core: str, torso: str, depth: int) -> None:
    network = make(core=core, torso=torso, frame_stack=depth, norm=True, last_action_reward=True)
    batch = inputs(depth=depth)
    with torch.no_grad():
        state = network.initial_state(B) + 0.5
        whole, last = network(batch, state)
        assert whole.shape == (L, B, A)
        for t in range(L):
            q, state = network(batch.rows(t, t + 1), state)
            torch.testing.assert_close(q[0], whole[t], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state, last, rtol=1e-4, atol=1e-5)


def test_lanes_do_not_mix() -> None:
    network, batch = make(frame_stack=2, norm=True, last_action_reward=True, dueling=True), inputs(depth=2)
    with torch.no_grad():
        q, _ = network(batch, network.initial_state(B))
        for lane in range(B):
            alone = Inputs(*(x[:, lane : lane + 1] for x in batch))
            torch.testing.assert_close(
                network(alone, network.initial_state(1))[0][:, 0], q[:, lane], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("core", CORES)
def test_what_follows_a_start_does_not_depend_on_what_came_before(core: str) -> None:
    """Frames, actions, rewards and state of the episode before are replaced by decoys."""
    network = make(core=core, frame_stack=3, norm=True, last_action_reward=True)
    batch = inputs(depth=3, starts=0.0)
    batch.is_first[2 + 3] = True  # row 3; two rows of history come before row 0
    with torch.no_grad():
        q, last = network(batch, network.initial_state(B))
        batch.frames[: 2 + 3] = 99
        batch.prev_action[: 3 + 1] = A - 1
        batch.prev_reward[: 3 + 1] = -7
        decoyed, last_decoyed = network(batch, network.initial_state(B) - 7)
    torch.testing.assert_close(decoyed[3:], q[3:], rtol=0, atol=0)
    torch.testing.assert_close(last_decoyed, last, rtol=0, atol=0)
    assert (decoyed[:3] != q[:3]).all()


def seen(network: QNetwork, batch: Inputs) -> Tensor:
    """What the network makes of the batch."""
    with torch.no_grad():
        return network(batch, network.initial_state(B))[0]


def test_the_last_action_and_reward_are_seen() -> None:
    network, batch = make(core="identity", last_action_reward=True), inputs(starts=0.0)
    q = seen(network, batch)
    assert (seen(network, batch._replace(prev_action=(batch.prev_action + 1) % A)) != q).any(-1).all()
    # small rewards only: those beyond 1 are clipped
    small = batch._replace(prev_reward=torch.full((L, B), 0.25))
    assert (seen(network, small) != seen(network, small._replace(prev_reward=-small.prev_reward))).any(-1).all()


def test_the_last_action_and_reward_are_hidden_where_an_episode_starts() -> None:
    network, batch = make(core="identity", last_action_reward=True), inputs(starts=1.0)
    q = seen(network, batch)
    assert torch.equal(seen(network, batch._replace(prev_action=(batch.prev_action + 1) % A)), q)
    assert torch.equal(seen(network, batch._replace(prev_reward=torch.full((L, B), 99.0))), q)


def test_a_hidden_last_action_is_no_action_and_not_the_first_one() -> None:
    network, batch = make(core="identity", last_action_reward=True), inputs(starts=1.0)
    none = batch._replace(prev_action=torch.zeros(L, B, dtype=torch.long), prev_reward=torch.zeros(L, B))
    running = none._replace(is_first=torch.zeros(L, B, dtype=torch.bool))
    assert (seen(network, none) != seen(network, running)).any(-1).all()


def test_the_last_reward_is_clipped_to_1() -> None:
    network, batch = make(core="identity", last_action_reward=True), inputs(starts=0.0)
    by_reward = [seen(network, batch._replace(prev_reward=torch.full((L, B), r))) for r in (1.0, 99.0, -1.0, -7.0)]
    assert torch.equal(by_reward[0], by_reward[1])
    assert torch.equal(by_reward[2], by_reward[3])
    assert not torch.equal(by_reward[0], by_reward[2])


def test_without_last_action_reward_neither_is_seen() -> None:
    network, batch = make(core="identity", last_action_reward=False), inputs(starts=0.0)
    other = batch._replace(prev_action=(batch.prev_action + 1) % A, prev_reward=torch.full((L, B), 99.0))
    assert torch.equal(seen(network, other), seen(network, batch))


def test_hidden_0_leaves_out_the_fully_connected_layer() -> None:
    network = make(hidden=0, core="lstm", last_action_reward=True)
    assert network.core.input_size == 3136 + A + 1
    assert seen(network, inputs()).shape == (L, B, A)


def test_q_and_state_are_in_single_precision_under_autocast() -> None:
    network = make(core="lstm", norm=True, last_action_reward=True, dueling=True)
    batch = inputs()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        q, state = network(batch, network.initial_state(B))
    assert q.dtype == state.dtype == torch.float32
    assert not torch.equal(q, q.bfloat16().float())  # not bf16 in a wider box: actions differ by less than its steps
    torch.testing.assert_close(q, seen(network, batch), rtol=0, atol=0.05)
