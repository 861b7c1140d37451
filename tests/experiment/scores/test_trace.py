import numpy as np
import torch

from envs.episodes import replay_grey
from experiment import build
from experiment.scores.trace import inputs_of


def close(a, b, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(a, b.numpy(), rtol=rtol, atol=atol)


def test_the_values_are_those_of_an_actor_that_plays_the_record(agent, record, numbers) -> None:
    actor = build.make_actor(agent.config, agent.network, 1, np.random.default_rng(0))
    frames, rewards = replay_grey(record)
    actions = record.actions[record.start :].astype(np.int64)
    before = np.concatenate([[0], rewards[:-1]]).astype(np.float32)
    assert before.any()
    for t, action in enumerate(actions):
        actor.act(frames[t, None], np.array([t == 0]), before[t, None], np.zeros(1))
        actor.state()["action"][:] = int(action)  # the record's in place of the actor's own
        np.testing.assert_allclose(numbers.q[t], actor.q[0], rtol=1e-4, atol=1e-5)
        close(numbers.core_states[t], actor.core_state[0], rtol=1e-4, atol=1e-5)
    assert (numbers.actions == actions).all()
    assert numbers.rewards.sum() == record.score
    assert list(numbers.gates) == ["input", "forget", "output"]
    gates = np.array([*numbers.gates.values()])
    assert gates.shape == (3, record.steps)
    assert ((gates > 0) & (gates < 1)).all()


def test_saliency_is_the_gradient_of_the_played_actions_value(agent, record, numbers) -> None:
    inputs, action = inputs_of(record, agent.config.frame_stack)
    view = agent.network.prepare(inputs.rows(0, 1))
    view.frames.requires_grad_()
    out, _ = agent.network.outputs(view, agent.network.initial_state(1))
    q = agent.network.head.samples(out).mean(-1)
    (gradient,) = torch.autograd.grad(q[0, 0, action[0]], view.frames)
    # 4 x 4 pixels as channels: row 4 y + 2, column 4 x + 1 is channel 4 * 2 + 1
    newest = gradient[0, 0, ..., -16:]
    close(numbers.saliency[0][2::4, 1::4], newest[..., 9].abs(), rtol=1e-3, atol=1e-7)
