from functools import partial

import pytest
import safetensors.torch
import torch
from torch import nn

from agents.cores import CORES
from agents.learner import OPTIMIZERS, Learner, LearnerSettings, NonFiniteError
from tests.batches import make_network, random_batch

LONG = {"burn_in": 3, "unroll": 4}
PLAIN = {"burn_in": 0, "unroll": 1, "discount": 0.9, "trace_lambda": None, "max_grad_norm": None}
PLAIN |= {"learning_rate": 1e-3, "optimizer_epsilon": 1e-3}


def make_learner(network=None, *, bf16=False, **changes):
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=bf16)
    return Learner(network or make_network(), LearnerSettings(**(PLAIN | changes)), autocast)


def gradients(learner):
    return {k: p.grad.clone() for k, p in learner.online.named_parameters() if p.grad is not None}


def copied(state):
    return {k: v.detach().contiguous().clone() for k, v in state.items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_batch_in_which_no_row_counts_changes_nothing() -> None:
    batch, learner = random_batch(3), make_learner(unroll=2)
    before = copied(learner.online.state_dict())
    told = learner.update(batch._replace(truncated=torch.ones_like(batch.truncated)))
    assert told.metrics["loss"] == told.metrics["grad_norm"] == 0
    assert told.priority.tolist() == [0, 0]
    assert same(learner.online.state_dict(), before)


def test_rmsprop_never_takes_the_root_of_a_negative_number() -> None:
    """The gradient's variance is less than the rounding of its square."""
    weight = torch.zeros(1_000, requires_grad=True)
    optimizer = OPTIMIZERS["rmsprop"]([weight], lr=1e-6, eps=1e-8)
    for _ in range(1_000):
        weight.grad, before = 1 + 1e-3 * torch.rand(1_000), weight.detach().clone()
        optimizer.step()
        assert (weight < before).all()  # NaN is not
    assert (optimizer.state[weight]["variance"] > 0).all()


def test_the_target_network_is_a_copy_at_times_and_the_acting_one_a_moving_average() -> None:
    learner = make_learner(make_network(standardize=True), target_period=3, average=0.5)
    target = average = copied(learner.online.state_dict())
    for update in range(1, 15):
        learner.update(random_batch(2, seed=update))
        newest = copied(learner.online.state_dict())
        target = newest if update % 3 == 0 else target
        memory = min(0.5, update / (update + 10))  # 1/11, 2/12, ... until 10/20
        average = {k: memory * average[k] + (1 - memory) * w for k, w in newest.items()}
        statistics = {k: w for k, w in newest.items() if k.startswith("pixels.")}
        assert statistics  # all networks standardize alike
        assert same(learner.target.state_dict(), target | statistics), update
        assert same(newest, target | statistics) == (update % 3 == 0)
    acting = learner.acting.state_dict()
    torch.testing.assert_close(dict(acting), average | statistics, rtol=1e-4, atol=1e-6)
    assert not same(acting, newest)
    for network in (learner.target, learner.acting):
        assert not any(p.requires_grad for p in network.parameters())
    plain, averaged = make_learner(), make_learner(average=0.5)
    assert plain.acting is plain.target is plain.online
    assert averaged.target is averaged.acting  # it values the next action as well


@pytest.mark.parametrize("core", CORES)
def test_mixed_precision_gives_every_weight_its_gradient_after_a_burn_in(core) -> None:
    """A cast of the weights that was made without gradients must not serve the unroll."""
    settings = dict.fromkeys(("norm", "last_action_reward", "dueling"), True)
    found = []
    for bf16 in (False, True):
        network = make_network(torso="nature", core=core, **settings)
        learner = make_learner(network, bf16=bf16, **LONG)
        learner.update(random_batch(8, state_size=network.state_size))
        found.append(gradients(learner))
    full, mixed = found
    assert mixed.keys() == dict(learner.online.named_parameters()).keys()
    for name, gradient in full.items():
        assert mixed[name].dtype == torch.float32
        pair = mixed[name].flatten(), gradient.flatten()
        assert nn.functional.cosine_similarity(*pair, dim=0) > 0.98, name


@pytest.mark.parametrize(
    ("name", "value"), [("reward", "nan"), ("core_state", "nan"), ("weight", "inf")]
)
def test_a_number_that_is_not_finite_shows_in_the_metrics_and_in_the_weights(name, value) -> None:
    learner, batch = make_learner(unroll=2, target_period=2), random_batch(3)
    learner.update(batch)
    learner.check_finite()
    wrong = torch.full_like(getattr(batch, name), float(value))
    told = learner.update(batch._replace(**{name: wrong}))
    assert not told.metrics["grad_norm"].isfinite()
    with pytest.raises(NonFiniteError, match="update 2: "):
        learner.check_finite()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_learner_restored_from_a_file_goes_on_bit_for_bit(optimizer) -> None:
    settings = {"optimizer": optimizer, "target_period": 3, "average": 0.5, "max_grad_norm": 10.0}
    one, other = (
        make_learner(make_network(seed, norm=True), trace_lambda=0.65, **LONG, **settings)
        for seed in (1, 99)
    )
    for update in range(5):
        if update == 2:  # before a copy to the target network
            saved = safetensors.torch.save(copied(one.state()))
            other.restore(safetensors.torch.load(saved))
        batch = random_batch(8, seed=update)
        told, expected = other.update(batch), one.update(batch)
        if update >= 2:
            assert told.metrics == expected.metrics
            assert (told.priority == expected.priority).all()
            assert same(other.state(), one.state())


def test_lambda_falls_from_its_start_to_its_end_and_stays_there() -> None:
    """Each update is that of a learner whose lambda is constant; 1 - lambda grows geometrically."""
    settings = {"unroll": 3, "target_period": 1}
    annealed = {"trace_lambda": 0.6, "trace_lambda_start": 0.9, "trace_lambda_updates": 2}
    falling = make_learner(**annealed, **settings)
    for update, value in enumerate((0.9, 1 - (0.1 * 0.4) ** 0.5, 0.6, 0.6)):
        batch, constant = random_batch(4, seed=update), make_learner(trace_lambda=value, **settings)
        constant.restore(copied(falling.state()))
        told, expected = (learner.update(batch).metrics["loss"] for learner in (falling, constant))
        torch.testing.assert_close(told, expected, rtol=1e-6, atol=0)
