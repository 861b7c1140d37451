import pytest
import torch
from torch import nn

from agents.networks import TORSOS, Residual, stack_frames
from tests.batches import ACTIONS, make_network, random_inputs

L, B = 7, 3


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [2, 3])  # a pixel that is a word, and one that is none
def test_stacks_are_those_of_an_agent_that_blackens_its_stack_at_starts(depth, channels) -> None:
    length, g = depth + 19, torch.Generator().manual_seed(depth)
    for starts in (0.0, 0.1, 0.4, 1.0):
        planes = torch.randint(1, 256, (length, 5, 2, 3, channels), dtype=torch.uint8, generator=g)
        is_first = torch.rand(length, 5, generator=g) < starts
        stacks = stack_frames(planes, is_first, depth)
        for lane in range(5):
            stack = black = [torch.zeros_like(planes[0, 0])] * depth
            for t in range(length):
                stack = [*(black if is_first[t, lane] else stack)[1:], planes[t, lane]]
                if t >= depth - 1:
                    assert torch.equal(stacks[t - depth + 1, lane], torch.cat(stack, dim=-1))


def plain(layer, x):
    """One layer of ours in torch's own layout; the first convolution takes pixels from 0 to 1."""
    if isinstance(layer, nn.Conv2d):
        return nn.functional.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)
    if isinstance(layer, nn.LayerNorm):
        weight, bias = layer.weight.permute(2, 0, 1), layer.bias.permute(2, 0, 1)
        return nn.functional.layer_norm(x, weight.shape, weight, bias)
    if isinstance(layer, Residual):
        inner = plain(layer.conv1, plain(layer.norm1, x).relu())
        return x + plain(layer.conv2, plain(layer.norm2, inner).relu())
    return layer(x)


CONVOLUTIONS = {"nature": 3, "dqn-2013": 2, "half": 3 * 5, "pooled": 3, "lean": 3 * 3, "slim": 3}


@pytest.mark.parametrize(("images", "norm"), [(1, True), (4, False)])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_torso_is_its_papers_layers(name, norm, images) -> None:
    torso = TORSOS[name](images, norm, (84, 84))
    for parameter in torso.parameters():  # scales of 1 would hide their order
        parameter.data += 0.1 * torch.randn(parameter.shape)
    assert sum(isinstance(m, nn.Conv2d) for m in torso.modules()) == CONVOLUTIONS[name]
    frames = random_inputs(1, B, images).frames  # [K, B, 84, 84]
    stack = stack_frames(torso.planes(frames), torch.zeros(images, B, dtype=torch.bool), images)[0]
    x = frames.transpose(0, 1) / 255  # [B, K, 84, 84]
    if torso.tile == 2:  # tiles of 2x2 pixels are channels
        x = nn.functional.pixel_unshuffle(x, 2)
    for layer in list(torso)[:-1]:
        x = plain(layer, x)
    expected, out = x.permute(0, 2, 3, 1).flatten(1), torso(stack.permute(0, 3, 1, 2).float())
    assert expected.shape == (B, torso.output_size)
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-4)


def test_the_nature_network_of_2015_has_its_number_of_parameters() -> None:
    network = make_network(frame_stack=4, torso="nature", hidden=512, core="identity")
    convolutions = 4 * 8 * 8 * 32 + 32 + 32 * 4 * 4 * 64 + 64 + 64 * 3 * 3 * 64 + 64
    linear = 7 * 7 * 64 * 512 + 512 + 512 * 4 + 4
    assert sum(p.numel() for p in network.parameters()) == convolutions + linear == 1_686_180


@pytest.mark.parametrize("torso", ["nature", "half"])
def test_standardized_pixels_have_the_running_mean_and_deviation_of_the_batches(torso) -> None:
    network = make_network(torso=torso, core="identity", standardize=True)
    planes = network.conv.planes(torch.randint(0, 256, (2, 50, 84, 84), dtype=torch.uint8))
    first, second = planes.float()
    assert torch.equal(network.pixels(first), first)  # before the first batch: as they are
    network.pixels.update(planes[:1], 1.0)
    network.pixels.update(planes[1:], 0.25)
    mean = 0.75 * first.mean(0) + 0.25 * second.mean(0)
    squares = (first - first.mean(0)).square().mean(0), (second - mean).square().mean(0)
    deviation = (0.75 * squares[0] + 0.25 * squares[1]).sqrt()
    expected = 255 * (second - mean) / (deviation + 16)
    torch.testing.assert_close(network.pixels(second), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("torso", ["nature", "half"])
def test_a_centred_network_sees_the_same_game_on_any_background(torso) -> None:
    seen = random_inputs(L, depth=2, starts=0)
    things = torch.zeros_like(seen.frames)
    things[..., 20:40, 30:50] = 60  # less than half of the screen

    def q(center, grey):
        network = make_network(frame_stack=2, torso=torso, core="identity", center=center)
        return network(seen._replace(frames=things + grey), network.initial_state(B))[0]

    assert torch.equal(q(True, 0), q(False, 0))
    torch.testing.assert_close(q(True, 87), q(True, 0), rtol=0, atol=1e-6)
    assert (q(False, 87) - q(False, 0)).abs().max() > 1e-3


def test_the_core_sees_the_last_action_and_clipped_reward_and_nothing_at_a_start() -> None:
    batch = random_inputs(L, starts=0.3)
    batch.prev_reward[:3, 0] = torch.tensor([99.0, -7.0, 0.25])
    starts = batch.is_first[..., None]
    action = nn.functional.one_hot(batch.prev_action, ACTIONS) * ~starts
    reward = batch.prev_reward.clamp(-1, 1)[..., None] * ~starts
    for hidden, size in ((8, 8), (0, 1152)):
        network = make_network(hidden=hidden, last_action_reward=True)
        looked = network.prepare(batch)
        given, features = network.encode(looked), make_network(hidden=hidden).encode(looked)
        assert torch.equal(given, torch.cat([features, action, reward], dim=-1))
        assert given.shape[-1] == network.core.input_size == size + ACTIONS + 1
        assert features.shape[-1] == size
