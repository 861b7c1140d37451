from functools import partial

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from agents import workers
from agents.learner import OPTIMIZERS, Learner, LearnerSettings, NonFiniteError, Update
from agents.networks import NetworkSettings, QNetwork
from agents.rows import Inputs, Sequence

A, B = 3, 2
GAMMA = 0.9
PLAIN = {"burn_in": 0, "unroll": 1, "discount": GAMMA, "trace_lambda": None, "learning_rate": 1e-3,
         "optimizer_epsilon": 1e-3, "max_grad_norm": None}  # fmt: skip
SMALL = {"hidden": 8, "core_size": 6, "norm": False, "center": False, "last_action_reward": False}


def make_network(seed: int = 0, **settings: object) -> QNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return QNetwork(A, NetworkSettings(**(SMALL | settings)))  # type: ignore[arg-type]


def make_learner(network: QNetwork | None = None, *, bf16: bool = False, **changes: object) -> Learner:
    settings = LearnerSettings(**(PLAIN | changes))  # type: ignore[arg-type]
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=bf16)
    return Learner(make_network() if network is None else network, settings, autocast)


def make_batch(length: int, *, state_size: int = 12, depth: int = 1, seed: int = 1, lanes: int = B) -> Sequence:
    """Random rows without an end."""
    generator = torch.Generator().manual_seed(seed)
    rows = depth - 1 + length
    no = torch.zeros(rows, lanes, dtype=torch.bool)
    return Sequence(
        Inputs(
            torch.randint(0, 256, (rows, lanes, 84, 84), dtype=torch.uint8, generator=generator),
            no,
            torch.randint(0, A, (length, lanes), generator=generator),
            torch.randn(length, lanes, generator=generator),
        ),
        torch.randint(0, A, (length, lanes), generator=generator),
        torch.randn(length, lanes, generator=generator),
        no[:length].clone(),
        no[:length].clone(),
        torch.randn(lanes, state_size, generator=generator),
        torch.ones(lanes),
        np.arange(lanes),
    )


def gradients(learner: Learner) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in learner.online.named_parameters() if p.grad is not None}


def weights(learner: Learner) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in learner.online.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def at(x: Tensor, row: int, value: float | bool, lane: int | slice = slice(None)) -> Tensor:
    """A copy with another value in one row."""
    x = x.clone()
    x[row, lane] = value
    return x


def q_values(network: QNetwork, inputs: Inputs, state: Tensor) -> Tensor:
    with torch.no_grad():
        return network(inputs, state)[0]


# --- the textbook


class Textbook(nn.Sequential):
    """The network of Mnih et al. 2015 in plain torch, with the weights of one of ours."""

    def __init__(self, ours: QNetwork) -> None:
        super().__init__(
            nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(3136, 8), nn.ReLU(), nn.Linear(8, A),
        )  # fmt: skip
        with torch.no_grad():
            for own, other in zip(self.parameters(), self.in_our_layout(ours), strict=True):
                own.copy_(other)

    @staticmethod
    def in_our_layout(ours: QNetwork) -> list[Tensor]:
        """Our parameters, the first linear layer's inputs in torch's order (C, H, W)."""
        return [
            p.detach().unflatten(1, (7, 7, 64)).permute(0, 3, 1, 2).flatten(1) if p.shape == (8, 3136) else p.detach()
            for p in ours.parameters()
        ]


def test_identity_unroll_1_and_n_1_equal_the_textbook_double_dqn_update() -> None:
    network = make_network(frame_stack=4, core="identity")
    learner = make_learner(network, target_period=2)
    online, target = Textbook(network), Textbook(network)
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-3, eps=1e-3)
    start = [p.clone() for p in online.parameters()]
    for update in range(4):
        batch = make_batch(2, state_size=0, depth=4, seed=update, lanes=5)
        batch = batch._replace(terminated=at(batch.terminated, 0, True, lane=1))
        # the last row only lends its frame: whatever it did and got is of no account
        batch = batch._replace(reward=at(batch.reward, 1, 99.0), terminated=at(batch.terminated, 1, True))

        s, s_next = (batch.inputs.frames[k : k + 4].transpose(0, 1) / 255 for k in (0, 1))
        a, r, done = batch.action[0], batch.reward[0].clamp(-1, 1), batch.terminated[0].float()
        q = online(s)[torch.arange(5), a]
        with torch.no_grad():
            best = online(s_next).argmax(1)
            y = r + GAMMA * (1 - done) * target(s_next)[torch.arange(5), best]
        loss = (0.5 * (y - q) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % 2 == 1:
            target.load_state_dict(online.state_dict())

        told = learner.update(batch)
        assert told.metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)
        np.testing.assert_allclose(told.priority, (y - q).abs().detach(), rtol=1e-3, atol=1e-5)
        ours = Textbook.in_our_layout(learner.online)
        for own, other in zip(ours, online.parameters(), strict=True):
            torch.testing.assert_close(own, other.detach(), rtol=0, atol=1e-5)
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(start, online.parameters(), strict=True))


# --- targets


def told_and_td(learner: Learner, batch: Sequence, target: Tensor) -> tuple[Update, float]:
    """What one update of unroll 1 tells, and half the mean squared error of these targets [B]."""
    q = q_values(learner.online, batch.inputs, batch.core_state)[0][torch.arange(B), batch.action[0]]
    return learner.update(batch), 0.5 * ((target - q) ** 2).mean().item()


def test_the_q_lambda_target_reaches_n_rows_beyond_the_unroll() -> None:
    learner, batch = make_learner(n_step=2, trace_lambda=0.6, double=False), make_batch(3)
    r = batch.reward.clamp(-1, 1)
    v = q_values(learner.online, batch.inputs, batch.core_state).amax(-1)
    g1 = r[1] + 0.9 * v[2]
    told, expected = told_and_td(learner, batch, r[0] + 0.9 * (0.4 * v[1] + 0.6 * g1))
    assert told.metrics["loss"] == pytest.approx(expected, rel=1e-4)


def test_rewards_are_clipped_to_the_given_size() -> None:
    batch = make_batch(2)

    def loss(reward: float, clip: float | None) -> float:
        told = make_learner(reward_clip=clip).update(batch._replace(reward=at(batch.reward, 0, reward)))
        return told.metrics["loss"].item()

    assert loss(99.0, 1.0) == loss(1.0, None)
    assert loss(-7.0, 0.5) == loss(-0.5, None)
    assert loss(99.0, None) != loss(1.0, None)


# --- what counts and what does not

LONG = {"burn_in": 3, "unroll": 4, "n_step": 1}


def test_rewards_actions_and_ends_of_the_burn_in_and_the_last_row_count_for_nothing() -> None:
    batch = make_batch(8)
    one = make_learner(**LONG)
    told = one.update(batch)
    for row in (0, 1, 2, 7):
        decoyed = batch._replace(
            reward=at(batch.reward, row, 99.0),
            action=at(batch.action, row, (int(batch.action[row, 0]) + 1) % A),
            terminated=at(batch.terminated, row, True),
            truncated=at(batch.truncated, row, True),
        )
        other = make_learner(**LONG)
        told_decoyed = other.update(decoyed)
        assert told_decoyed.metrics == told.metrics
        assert (told_decoyed.priority == told.priority).all()
        assert same(gradients(other), gradients(one))


def after_burn_in(batch: Sequence, state: Tensor) -> Sequence:
    """The batch without its three rows of burn-in, from the state they lead to."""
    return batch._replace(
        inputs=batch.inputs.rows(3, 8),
        core_state=state,
        **{name: getattr(batch, name)[3:] for name in ("action", "reward", "terminated", "truncated")},
    )


@pytest.mark.parametrize("core", ["lstm", "rnn"])
def test_burn_in_gives_a_state_and_nothing_else(core: str) -> None:
    settings = {"core": core, "frame_stack": 2, "last_action_reward": True}
    batch = make_batch(8, depth=2, state_size=make_network(**settings).state_size)
    whole = make_learner(make_network(**settings), **LONG)
    network = make_network(**settings)
    with torch.no_grad():
        state = network(batch.inputs.rows(0, 3), batch.core_state)[1]
    cut = make_learner(network, **(LONG | {"burn_in": 0}))
    told, expected = whole.update(batch), cut.update(after_burn_in(batch, state))
    for metric, value in expected.metrics.items():
        torch.testing.assert_close(told.metrics[metric], value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(told.priority, expected.priority, rtol=1e-5)
    for name, gradient in gradients(cut).items():
        torch.testing.assert_close(gradients(whole)[name], gradient, rtol=1e-4, atol=1e-7)


def test_no_gradient_flows_through_the_burn_in() -> None:
    """The loss's gradient with the burn-in's state held fixed is the learner's; with it followed it is another."""
    batch, learner = make_batch(5, seed=3), make_learner(burn_in=3, unroll=1)
    learner.update(batch)
    for followed in (False, True):
        network = make_network()
        with torch.set_grad_enabled(followed):
            state = network(batch.inputs.rows(0, 3), batch.core_state)[1]
        q, after = network(batch.inputs.rows(3, 4), state)
        with torch.no_grad():
            v = network(batch.inputs.rows(4, 5), after)[0][0].amax(-1)
        td = batch.reward[3].clamp(-1, 1) + GAMMA * v - q[0][torch.arange(B), batch.action[3]]
        (0.5 * td.square()).mean().backward()
        gradient = network.get_parameter("core.cell.weight_hh_l0").grad
        assert gradient is not None
        own = gradients(learner)["core.cell.weight_hh_l0"]
        assert torch.allclose(own, gradient, rtol=1e-4, atol=1e-7) != followed


def test_the_target_network_is_burnt_in_with_its_own_weights_from_the_stored_state() -> None:
    learner = make_learner(target_period=5, burn_in=3, double=False, reward_clip=None)
    learner.target.load_state_dict(make_network(7).state_dict())
    batch = make_batch(5)

    def td(burnt: QNetwork) -> Tensor:
        """The TD error if this network's state after the burn-in were given to the target network."""
        with torch.no_grad():
            own = learner.online(batch.inputs.rows(0, 3), batch.core_state)[1]
            state = burnt(batch.inputs.rows(0, 3), batch.core_state)[1]
            q = learner.online(batch.inputs.rows(3, 4), own)[0][0][torch.arange(B), batch.action[3]]
            v = learner.target(batch.inputs.rows(3, 5), state)[0][1].amax(-1)
        return (batch.reward[3] + GAMMA * v - q).abs()

    right, wrong = td(learner.target), td(learner.online)
    priority = learner.update(batch).priority
    np.testing.assert_allclose(priority, right, rtol=1e-3, atol=1e-5)
    assert not np.allclose(priority, wrong, rtol=1e-2, atol=1e-3)


def truncated_at(batch: Sequence, row: int, lane: int) -> Sequence:
    """An episode is cut at `row`; the next starts in the row after."""
    inputs = batch.inputs._replace(is_first=at(batch.inputs.is_first, row + 1, True, lane))
    return batch._replace(inputs=inputs, truncated=at(batch.truncated, row, True, lane))


@pytest.mark.parametrize("trace_lambda", [None, 0.65])
def test_a_truncated_row_counts_for_nothing(trace_lambda: float | None) -> None:
    batch = truncated_at(make_batch(6), row=2, lane=1)
    settings = {"unroll": 5, "trace_lambda": trace_lambda}
    one, other = make_learner(**settings), make_learner(**settings)
    decoyed = batch._replace(
        reward=at(batch.reward, 2, -7.0, lane=1), action=at(batch.action, 2, (int(batch.action[2, 1]) + 1) % A, lane=1)
    )
    told, told_decoyed = one.update(batch), other.update(decoyed)
    for name in ("loss", "grad_norm"):
        assert told_decoyed.metrics[name] == told.metrics[name]
    assert (told_decoyed.priority == told.priority).all()
    assert same(gradients(other), gradients(one))


def test_the_loss_is_the_mean_over_rows_that_count() -> None:
    whole = make_batch(5)
    whole = whole._replace(terminated=torch.ones_like(whole.terminated))  # targets are rewards, row by row
    q = q_values(make_network(), whole.inputs, whole.core_state)[:4]
    td = whole.reward[:4].clamp(-1, 1) - q.gather(-1, whole.action[:4, :, None])[..., 0]
    masked = whole._replace(truncated=at(at(whole.truncated, 1, True, lane=0), 3, True, lane=1))
    size = td.abs()
    size[1, 0] = size[3, 1] = 0
    told = make_learner(unroll=4).update(masked)
    assert told.metrics["loss"] == pytest.approx((0.5 * size**2).sum().item() / (4 * B - 2), rel=1e-4)
    expected = 0.9 * size.amax(0) + 0.1 * size.sum(0) / 3
    np.testing.assert_allclose(told.priority, expected, rtol=1e-4)


def test_a_batch_in_which_no_row_counts_changes_nothing() -> None:
    batch = make_batch(3)
    learner = make_learner(unroll=2)
    before = weights(learner)
    told = learner.update(batch._replace(truncated=torch.ones_like(batch.truncated)))
    assert told.metrics["loss"] == told.metrics["grad_norm"] == 0
    assert told.priority.tolist() == [0] * B
    assert same(weights(learner), before)


def test_importance_weights_scale_the_loss_of_their_sequence_and_not_its_priority() -> None:
    batch = make_batch(4)

    def told(*weight: float) -> Update:
        return make_learner(unroll=3).update(batch._replace(weight=torch.tensor(weight)))

    both, first, second = told(1, 1), told(1, 0), told(0, 1)
    assert both.metrics["loss"] == pytest.approx(first.metrics["loss"] + second.metrics["loss"])
    mixed = told(0.5, 0.25)
    assert mixed.metrics["loss"] == pytest.approx(0.5 * first.metrics["loss"] + 0.25 * second.metrics["loss"])
    assert (mixed.priority == both.priority).all()


# --- the step


def norm(learner: Learner) -> float:
    return torch.cat([g.flatten() for g in gradients(learner).values()]).norm().item()


def test_gradients_are_scaled_down_to_the_given_norm() -> None:
    batch = make_batch(3)
    free, clipped, loose = (make_learner(unroll=2, max_grad_norm=most) for most in (None, 0.01, 1e6))
    told = [learner.update(batch).metrics["grad_norm"].item() for learner in (free, clipped, loose)]
    assert told == [told[0]] * 3  # the norm is told as it was
    assert norm(free) == pytest.approx(told[0], rel=1e-5)
    assert norm(clipped) == pytest.approx(0.01, rel=1e-3)
    assert same(gradients(loose), gradients(free))
    scale = 0.01 / told[0]
    for name, gradient in gradients(clipped).items():
        torch.testing.assert_close(gradient, scale * gradients(free)[name], rtol=1e-3, atol=1e-8)


def test_rmsprop_never_takes_the_root_of_a_negative_number() -> None:
    """A gradient within 0.1 % of 1 for 1,000 updates: its variance is less than the rounding of its square."""
    weight = torch.zeros(1_000, requires_grad=True)
    optimizer = OPTIMIZERS["rmsprop"]([weight], lr=1e-6, eps=1e-8)
    generator, mean, square = torch.Generator().manual_seed(0), 0.0, 0.0
    for _ in range(1_000):
        weight.grad = 1 + 1e-3 * torch.rand(1_000, generator=generator)
        before, g = weight.detach().clone(), weight.grad.double()
        optimizer.step()
        mean, square = 0.95 * mean + 0.05 * g, 0.95 * square + 0.05 * g**2
        assert weight.isfinite().all()
    variance = optimizer.state[weight]["variance"]
    assert (variance > 0).all()
    torch.testing.assert_close(variance.double(), square - mean**2, rtol=1e-2, atol=0)
    assert (weight < before).all()


def test_the_target_network_is_copied_every_target_period_updates_and_never_trained() -> None:
    learner, batch = make_learner(target_period=3), make_batch(2)
    expected = {k: v.clone() for k, v in learner.online.state_dict().items()}
    for update in range(1, 8):
        learner.update(batch)
        if update % 3 == 0:
            expected = {k: v.clone() for k, v in learner.online.state_dict().items()}
        assert same(dict(learner.target.state_dict()), expected), update
        assert same(dict(learner.online.state_dict()), expected) == (update % 3 == 0)
    assert all(p.grad is None for p in learner.target.parameters())


def test_the_acting_network_is_the_moving_average_of_the_weights_and_resumes_with_them() -> None:
    learner, batch = make_learner(average=0.9), make_batch(2)
    average = weights(learner)
    for update in range(1, 120):
        learner.update(batch)
        memory = min(0.9, update / (update + 10))  # 1/11, 2/12, ... until 90/100
        average = {k: memory * average[k] + (1 - memory) * w for k, w in weights(learner).items()}
    torch.testing.assert_close(dict(learner.acting.named_parameters()), average, rtol=1e-4, atol=1e-6)
    assert not same(weights(learner), average)
    assert all(not p.requires_grad for p in learner.acting.parameters())

    resumed = make_learner(average=0.9)
    resumed.restore(learner.state())
    assert same(resumed.state(), learner.state())


def test_average_0_acts_with_the_online_network() -> None:
    learner = make_learner(average=0)
    assert learner.acting is learner.online
    assert not any(name.startswith("acting.") for name in learner.state())


def test_target_period_0_keeps_no_second_network() -> None:
    learner = make_learner(target_period=0)
    assert learner.target is learner.online
    assert not any(name.startswith("target.") for name in learner.state())


@pytest.mark.parametrize("core", ["lstm", "lstm1997", "gru", "rnn", "identity"])
def test_mixed_precision_gives_every_weight_its_gradient_after_a_burn_in(core: str) -> None:
    """A cast of the weights that was made without gradients must not serve the unroll."""
    settings = {"core": core, "norm": True, "last_action_reward": True, "dueling": True}
    batch = make_batch(8, state_size=make_network(**settings).state_size)
    full, mixed = (make_learner(make_network(**settings), bf16=bf16, **LONG) for bf16 in (False, True))
    full.update(batch)
    mixed.update(batch)
    assert gradients(mixed).keys() == dict(mixed.online.named_parameters()).keys()
    for name, gradient in gradients(full).items():
        got = gradients(mixed)[name]
        assert got.dtype == torch.float32
        assert nn.functional.cosine_similarity(got.flatten(), gradient.flatten(), dim=0) > 0.98, name


@pytest.mark.parametrize(("name", "value"), [("reward", "nan"), ("core_state", "nan"), ("weight", "inf")])
def test_a_number_that_is_not_finite_shows_in_the_metrics_and_is_found_in_the_weights(name: str, value: str) -> None:
    learner, batch = make_learner(unroll=2, target_period=2), make_batch(3)
    learner.update(batch)
    learner.check_finite()
    told = learner.update(batch._replace(**{name: torch.full_like(getattr(batch, name), float(value))}))
    assert not told.metrics["grad_norm"].isfinite()
    with pytest.raises(NonFiniteError, match="update 2: "):
        learner.check_finite()


# --- again and again


def trained(seed: int) -> Learner:
    learner = make_learner(make_network(seed, norm=True), **LONG)
    for update in range(2):
        learner.update(make_batch(8, seed=update))
    return learner


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    assert same(trained(1).state(), trained(1).state())
    assert not same(weights(trained(1)), weights(trained(2)))


def through_a_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return safetensors.torch.load(safetensors.torch.save({k: v.contiguous().clone() for k, v in state.items()}))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_restored_learner_goes_on_bit_for_bit(optimizer: str) -> None:
    settings = LONG | {"optimizer": optimizer, "target_period": 3, "max_grad_norm": 10.0, "trace_lambda": 0.65}
    one = make_learner(make_network(1, norm=True), **settings)
    for update in range(2):
        one.update(make_batch(8, seed=update))
    other = make_learner(make_network(99, norm=True), **settings)
    other.restore(through_a_file(one.state()))
    assert same(other.state(), one.state())
    for update in range(2, 5):  # over a copy to the target network
        batch = make_batch(8, seed=update)
        told, expected = other.update(batch), one.update(batch)
        assert told.metrics == expected.metrics
        assert (told.priority == expected.priority).all()
        assert same(other.state(), one.state())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_moments_take_the_layout_of_their_weights_when_restored(optimizer: str) -> None:
    one, other = (make_learner(make_network(frame_stack=2), optimizer=optimizer) for _ in range(2))
    one.update(make_batch(2, depth=2))
    other.restore(through_a_file(one.state()))
    channels_last = 0
    for parameter, slots in other.optimizer.state.items():
        moments = [x for x in slots.values() if torch.is_tensor(x) and x.ndim]
        assert moments
        assert all(x.stride() == parameter.stride() for x in moments)
        channels_last += not parameter.is_contiguous()
    assert channels_last == 3  # the three convolutions


def test_a_learner_restored_before_its_first_update_starts_afresh() -> None:
    one, other, batch = make_learner(), make_learner(make_network(7)), make_batch(2)
    other.update(batch)  # leaves moments behind
    other.restore(through_a_file(one.state()))
    assert one.update(batch).metrics == other.update(batch).metrics
    assert same(one.state(), other.state())


def test_the_weights_of_another_network_are_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        make_learner(make_network(core="gru")).restore(make_learner().state())


def test_lambda_falls_from_its_start_to_its_end_and_stays_there() -> None:
    """Each update is that of a learner whose lambda is constant: 1 - 0.9, then the geometric mean, then 1 - 0.6."""
    settings = {"unroll": 3, "target_period": 1}
    falling = make_learner(trace_lambda=0.6, trace_lambda_start=0.9, trace_lambda_updates=2, **settings)
    for update, value in enumerate((0.9, 1 - (0.1 * 0.4) ** 0.5, 0.6, 0.6)):
        batch, constant = make_batch(4, seed=update), make_learner(trace_lambda=value, **settings)
        constant.restore({k: v.clone() for k, v in falling.state().items()})
        expected = constant.update(batch).metrics["loss"]
        torch.testing.assert_close(falling.update(batch).metrics["loss"], expected, rtol=1e-6, atol=0)


def test_the_number_of_threads_changes_no_bit() -> None:
    """Gradients are summed part by part: four parts here, by one, two or three threads."""
    batch = make_batch(17, lanes=16)
    learnt = []
    for threads in (1, 2, 3):
        workers.use_threads(threads)
        learner = make_learner(
            make_network(core="lstm1997", norm=True), unroll=16, trace_lambda=0.5, target_period=2, parts=4
        )
        told = [learner.update(batch).metrics for _ in range(3)]
        learnt.append(learner.state() | {f"{i} {k}": v for i, row in enumerate(told) for k, v in row.items()})
    workers.use_threads(1)
    assert same(learnt[0], learnt[1])
    assert same(learnt[0], learnt[2])


def test_the_parts_of_a_batch_together_give_the_gradient_of_the_whole() -> None:
    batch, whole, parts = make_batch(17, lanes=5), make_learner(unroll=16, parts=1), make_learner(unroll=16, parts=3)
    parts.update(batch)
    whole.update(batch)
    expected = gradients(whole)
    for name, gradient in gradients(parts).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
