from functools import partial

import pytest
import safetensors.torch
import torch
from torch import nn

from agents.cores import CORES
from agents.learner import Learner, LearnerSettings, NonFiniteError
from agents.optimizers import OPTIMIZERS
from tests.batches import make_network, random_batch

LONG = {"burn_in": 3, "unroll": 4}
PLAIN = {"burn_in": 0, "unroll": 1, "discount": 0.9, "trace_lambda": None, "max_grad_norm": None}
PLAIN |= {"average": 0.0, "learning_rate": 1e-3, "optimizer_epsilon": 1e-3}


def make_learner(network=None, *, bf16=False, **changes):
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=bf16)
    return Learner(network or make_network(), LearnerSettings(**(PLAIN | changes)), autocast)


def gradients(learner):
    return {k: p.grad.clone() for k, p in learner.online.named_parameters() if p.grad is not None}


def weights(network):
    return {k: p.detach().clone() for k, p in network.named_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_batch_in_which_no_row_counts_changes_nothing() -> None:
    batch, learner = random_batch(3), make_learner(unroll=2)
    before = weights(learner.online)
    update = learner.update(batch._replace(truncated=torch.ones_like(batch.truncated)))
    assert update.metrics["loss"] == update.metrics["grad_norm"] == 0
    assert update.priority.tolist() == [0, 0]
    assert same(weights(learner.online), before)


def test_the_target_network_is_copied_every_target_period_updates_and_never_trained() -> None:
    learner, batch = make_learner(target_period=3), random_batch(2)
    expected = weights(learner.online)
    for update in range(1, 8):
        learner.update(batch)
        if update % 3 == 0:
            expected = weights(learner.online)
        assert same(weights(learner.target), expected), update
        assert same(weights(learner.online), expected) == (update % 3 == 0)
    assert not any(p.requires_grad for p in learner.target.parameters())
    plain = make_learner()
    assert plain.acting is plain.target is plain.online


def test_the_acting_network_is_the_moving_average_of_the_weights() -> None:
    learner, batch = make_learner(average=0.5), random_batch(2)
    average = weights(learner.online)
    for update in range(1, 15):
        learner.update(batch)
        memory = min(0.5, update / (update + 10))  # 1/11, 2/12, ... until 10/20
        newest = weights(learner.online)
        average = {k: memory * average[k] + (1 - memory) * w for k, w in newest.items()}
    torch.testing.assert_close(weights(learner.acting), average, rtol=1e-4, atol=1e-6)
    assert not same(newest, average)
    assert not any(p.requires_grad for p in learner.acting.parameters())
    assert learner.target is learner.acting  # it values the next action as well


@pytest.mark.parametrize("core", CORES)
def test_mixed_precision_gives_every_weight_its_gradient_after_a_burn_in(core) -> None:
    """A cast of the weights that was made without gradients must not serve the unroll."""
    settings = dict.fromkeys(("norm", "last_action_reward", "dueling"), True)
    results = []
    for bf16 in (False, True):
        network = make_network(torso="nature", core=core, **settings)
        learner = make_learner(network, bf16=bf16, **LONG)
        learner.update(random_batch(8, state_size=network.state_size))
        results.append(gradients(learner))
    full, mixed = results
    assert mixed.keys() == weights(learner.online).keys()
    for name, gradient in full.items():
        assert mixed[name].dtype == torch.float32
        pair = mixed[name].flatten(), gradient.flatten()
        assert nn.functional.cosine_similarity(*pair, dim=0) > 0.98, name


@pytest.mark.parametrize(
    ("name", "value"), [("reward", "nan"), ("core_state", "nan"), ("weight", "inf")]
)
def test_a_number_that_is_not_finite_shows_in_the_metrics_and_is_found_in_the_weights(
    name, value
) -> None:
    learner, batch = make_learner(unroll=2, target_period=2), random_batch(3)
    learner.update(batch)
    learner.check_finite()
    wrong = torch.full_like(getattr(batch, name), float(value))
    update = learner.update(batch._replace(**{name: wrong}))
    assert not update.metrics["grad_norm"].isfinite()
    with pytest.raises(NonFiniteError, match="update 2: "):
        learner.check_finite()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_learner_restored_from_a_file_goes_on_bit_for_bit(optimizer) -> None:
    settings = {"optimizer": optimizer, "target_period": 3, "average": 0.5, "max_grad_norm": 10.0}
    settings |= {"learning_rate_updates": 1}
    one, other = (
        make_learner(make_network(seed, norm=True), trace_lambda=0.65, **LONG, **settings)
        for seed in (1, 99)
    )
    for update in range(2):
        one.update(random_batch(8, seed=update))
    saved = {k: v.contiguous().clone() for k, v in one.state().items()}
    other.restore(safetensors.torch.load(safetensors.torch.save(saved)))
    assert same(other.state(), one.state())
    for update in range(2, 5):  # over a copy to the target network
        batch = random_batch(8, seed=update)
        result, expected = other.update(batch), one.update(batch)
        assert result.metrics == expected.metrics
        assert (result.priority == expected.priority).all()
        assert same(other.state(), one.state())


def test_the_learning_rate_falls_as_1_over_updates_after_its_updates() -> None:
    """Each update is that of a learner whose learning rate is constant."""
    falling = make_learner(learning_rate_updates=2, learning_rate=1e-2)
    for update, rate in enumerate((1e-2, 1e-2, 1e-2, 1e-2 * 2 / 3, 1e-2 * 2 / 4)):
        constant = make_learner(learning_rate=rate, learning_rate_updates=0)
        constant.restore({k: v.clone() for k, v in falling.state().items()})
        for learner in (falling, constant):
            learner.update(random_batch(2, seed=update))
        torch.testing.assert_close(falling.state(), constant.state(), rtol=1e-6, atol=0)


def test_the_parts_of_a_batch_together_give_the_gradient_of_the_whole() -> None:
    batch, learners = random_batch(17, lanes=5), [make_learner(unroll=16, parts=n) for n in (1, 3)]
    for learner in learners:
        learner.update(batch)
    whole, parts = map(gradients, learners)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)
