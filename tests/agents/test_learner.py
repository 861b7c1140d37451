from functools import partial

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from agents.learner import OPTIMIZERS, Learner, LearnerSettings, NonFiniteError
from agents.networks import QNetwork
from tests.batches import make_network, random_batch

LONG = {"burn_in": 3, "unroll": 4}
PLAIN = {
    "burn_in": 0,
    "unroll": 1,
    "discount": 0.9,
    "trace_lambda": None,
    "learning_rate": 1e-3,
    "optimizer_epsilon": 1e-3,
    "max_grad_norm": None,
}


def make_learner(
    network: QNetwork | None = None, *, bf16: bool = False, **changes: object
) -> Learner:
    settings = LearnerSettings(**(PLAIN | changes))  # type: ignore[arg-type]
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=bf16)
    return Learner(make_network() if network is None else network, settings, autocast)


def gradients(learner: Learner) -> dict[str, Tensor]:
    return {
        name: p.grad.clone() for name, p in learner.online.named_parameters() if p.grad is not None
    }


def weights(learner: Learner) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in learner.online.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_without_a_period_and_an_average_there_is_one_network() -> None:
    learner = make_learner()
    assert learner.acting is learner.target is learner.online
    assert not any(name.startswith(("target.", "acting.")) for name in learner.state())


def test_a_batch_in_which_no_row_counts_changes_nothing() -> None:
    batch = random_batch(3)
    learner = make_learner(unroll=2)
    before = weights(learner)
    told = learner.update(batch._replace(truncated=torch.ones_like(batch.truncated)))
    assert told.metrics["loss"] == told.metrics["grad_norm"] == 0
    assert told.priority.tolist() == [0, 0]
    assert same(weights(learner), before)


def test_rmsprop_never_takes_the_root_of_a_negative_number() -> None:
    """A gradient within 0.1 % of 1 for 1,000 updates: its variance is less than the rounding of its
    square."""
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
    learner, batch = make_learner(target_period=3), random_batch(2)
    expected = {k: v.clone() for k, v in learner.online.state_dict().items()}
    for update in range(1, 8):
        learner.update(batch)
        if update % 3 == 0:
            expected = {k: v.clone() for k, v in learner.online.state_dict().items()}
        assert same(dict(learner.target.state_dict()), expected), update
        assert same(dict(learner.online.state_dict()), expected) == (update % 3 == 0)
    assert all(p.grad is None for p in learner.target.parameters())


def test_the_acting_network_is_the_moving_average_of_the_weights_and_resumes_with_them() -> None:
    learner, batch = make_learner(average=0.5), random_batch(2)
    average = weights(learner)
    for update in range(1, 15):
        learner.update(batch)
        memory = min(0.5, update / (update + 10))  # 1/11, 2/12, ... until 10/20
        average = {k: memory * average[k] + (1 - memory) * w for k, w in weights(learner).items()}
    torch.testing.assert_close(
        dict(learner.acting.named_parameters()), average, rtol=1e-4, atol=1e-6
    )
    assert not same(weights(learner), average)
    assert all(not p.requires_grad for p in learner.acting.parameters())
    assert learner.target is learner.acting  # it values the next action as well

    resumed = make_learner(average=0.5)
    resumed.restore(learner.state())
    assert same(resumed.state(), learner.state())


@pytest.mark.parametrize("core", ["lstm", "lstm1997", "gru", "rnn", "identity"])
def test_mixed_precision_gives_every_weight_its_gradient_after_a_burn_in(core: str) -> None:
    """A cast of the weights that was made without gradients must not serve the unroll."""
    settings = {
        "torso": "nature",
        "core": core,
        "norm": True,
        "last_action_reward": True,
        "dueling": True,
    }
    batch = random_batch(8, state_size=make_network(**settings).state_size)
    full, mixed = (
        make_learner(make_network(**settings), bf16=bf16, **LONG) for bf16 in (False, True)
    )
    full.update(batch)
    mixed.update(batch)
    assert gradients(mixed).keys() == dict(mixed.online.named_parameters()).keys()
    for name, gradient in gradients(full).items():
        got = gradients(mixed)[name]
        assert got.dtype == torch.float32
        assert nn.functional.cosine_similarity(got.flatten(), gradient.flatten(), dim=0) > 0.98, (
            name
        )


@pytest.mark.parametrize(
    ("name", "value"), [("reward", "nan"), ("core_state", "nan"), ("weight", "inf")]
)
def test_a_number_that_is_not_finite_shows_in_the_metrics_and_is_found_in_the_weights(
    name: str, value: str
) -> None:
    learner, batch = make_learner(unroll=2, target_period=2), random_batch(3)
    learner.update(batch)
    learner.check_finite()
    told = learner.update(
        batch._replace(**{name: torch.full_like(getattr(batch, name), float(value))})
    )
    assert not told.metrics["grad_norm"].isfinite()
    with pytest.raises(NonFiniteError, match="update 2: "):
        learner.check_finite()


def through_a_file(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return safetensors.torch.load(
        safetensors.torch.save({k: v.contiguous().clone() for k, v in state.items()})
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_restored_learner_goes_on_bit_for_bit(optimizer: str) -> None:
    settings = LONG | {
        "optimizer": optimizer,
        "target_period": 3,
        "max_grad_norm": 10.0,
        "trace_lambda": 0.65,
    }
    one = make_learner(make_network(1, norm=True), **settings)
    for update in range(2):
        one.update(random_batch(8, seed=update))
    other = make_learner(make_network(99, norm=True), **settings)
    other.restore(through_a_file(one.state()))
    assert same(other.state(), one.state())
    for update in range(2, 5):  # over a copy to the target network
        batch = random_batch(8, seed=update)
        told, expected = other.update(batch), one.update(batch)
        assert told.metrics == expected.metrics
        assert (told.priority == expected.priority).all()
        assert same(other.state(), one.state())


def test_lambda_falls_from_its_start_to_its_end_and_stays_there() -> None:
    """Each update is that of a learner whose lambda is constant: 1 - 0.9, then the geometric mean,
    then 1 - 0.6."""
    settings = {"unroll": 3, "target_period": 1}
    falling = make_learner(
        trace_lambda=0.6, trace_lambda_start=0.9, trace_lambda_updates=2, **settings
    )
    for update, value in enumerate((0.9, 1 - (0.1 * 0.4) ** 0.5, 0.6, 0.6)):
        batch, constant = random_batch(4, seed=update), make_learner(trace_lambda=value, **settings)
        constant.restore({k: v.clone() for k, v in falling.state().items()})
        expected = constant.update(batch).metrics["loss"]
        torch.testing.assert_close(
            falling.update(batch).metrics["loss"], expected, rtol=1e-6, atol=0
        )


def test_the_parts_of_a_batch_together_give_the_gradient_of_the_whole() -> None:
    batch, whole, parts = (
        random_batch(17, lanes=5),
        make_learner(unroll=16, parts=1),
        make_learner(unroll=16, parts=3),
    )
    parts.update(batch)
    whole.update(batch)
    expected = gradients(whole)
    for name, gradient in gradients(parts).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
