"""The gradient into the past, the memory horizon, and the commands."""

import copy
import json

import numpy as np
import pytest
import torch

from agents.rows import Inputs
from experiment.memory import probes as memory
from experiment.scores.agent import Agent, open_agent
from experiment.scores.evaluation import Evaluation, evaluate
from tests.batches import make_network, random_inputs


def test_wiping_every_step_is_starting_from_nothing_at_every_row(finished) -> None:
    agent = open_agent(finished, eval_episodes=1, eval_epsilon=0.5, seed=5)
    wiped = evaluate(agent.network, agent.config, agent.protocol, wipe_every=1)
    core = copy.copy(agent.network.core)
    agent.network.core.forward = lambda x, state, first: core(x, state, torch.ones_like(first))
    fresh = evaluate(agent.network, agent.config, agent.protocol)
    assert fresh.scores == wiped.scores
    assert fresh.records[0].actions.tobytes() == wiped.records[0].actions.tobytes()


def episode(rows: int, depth: int) -> tuple[Inputs, torch.Tensor]:
    inputs = random_inputs(rows, 1, depth, starts=0.0)
    inputs.is_first[depth - 1] = True
    return inputs, inputs.prev_action[:, 0].roll(-1)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_gradient_k_steps_back_is_that_of_one_pass_over_the_episode(depth) -> None:
    network = make_network(frame_stack=depth, hidden=32, core="gru")
    inputs, action = episode(9, depth)
    end, steps = 8, 5
    norms = memory.gradient_norms(network, inputs, action, [6, end], steps)[1]
    view = network.prepare(inputs)
    view.frames.requires_grad_()
    out, _ = network.outputs(view, network.initial_state(1))
    network.head.samples(out).mean(-1)[end, 0, action[end]].backward()
    whole = view.frames.grad.flatten(1).norm(dim=1)  # [rows]
    np.testing.assert_allclose(norms, whole[end - steps : end + 1].flip(0), rtol=1e-4)
    assert (norms > 0).all()


def test_the_gradient_of_a_feed_forward_network_does_not_reach_back() -> None:
    norms = memory.gradient_norms(make_network(core="identity"), *episode(9, 1), [8], 4)[0]
    assert norms[0] > 0
    assert norms[1:].tolist() == [0.0] * 4


def test_the_commands_write_horizon_and_gradients_of_all_cores(finished, tmp_path) -> None:
    out = tmp_path / "new" / "horizon.json"

    def call(command: str, words: str) -> dict:
        words += f" --epsilon 0.5 --threads 1 --out {out}"
        assert memory.main([command, str(finished), *words.split()]) == 0
        return json.loads(out.read_text())

    wiped = call("horizon", "--episodes 2 --every 4")["wiped_every"]
    assert list(wiped) == ["4", "never"]
    assert all(row["mean"] == np.mean(row["scores"]) for row in wiped.values())
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    curves = call("gradient", "--episodes 1 --steps 8 --states 3 --fresh 1")["curves"]
    assert list(curves) == ["lstm, trained", "rnn, new", "lstm1997, new", "lstm, new", "gru, new"]
    for curve in curves.values():
        assert curve["states"] == 3
        bands = [curve[name] for name in ("median", "quartile_low", "quartile_high")]
        assert [(band[0], len(band)) for band in bands] == [(1, 9)] * 3


@pytest.mark.parametrize("whole", [0, 2])
def test_a_stopped_horizon_keeps_the_values_of_k_that_are_finished(
    whole, finished, tmp_path, monkeypatch
) -> None:
    out, played = tmp_path / "horizon.json", []

    def play(agent, wipe_every):
        if len(played) == whole:
            raise KeyboardInterrupt
        played.append(wipe_every)
        return Evaluation([1.0, 2.0])

    monkeypatch.setattr(Agent, "play", play)
    words = f"--episodes 2 --every 4 8 16 --threads 1 --out {out}"
    assert memory.main(["horizon", str(finished), *words.split()]) == 130
    part = out.with_stem("horizon-first2")  # a complete result would stay
    assert not out.exists()
    assert part.exists() == part.with_suffix(".png").exists() == bool(whole)
    if whole:
        assert list(json.loads(part.read_text())["wiped_every"]) == ["4", "8"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("recal", "Did you mean recall?"),
        ("horizon", "needs the folder of one run"),
        ("horizon zoo/breakout-dqn", "dqn has no memory"),
        ("horizon RUN --every 0 4", "--every 0: "),
        ("gradient RUN --out figure.png", "--out figure.png: must end in .json"),
        ("recall --out /proc/no/r.json", "/proc/no: cannot be written"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(finished, words, said, error_of) -> None:
    assert said in error_of(memory.main, words.replace("RUN", str(finished)).split())
