"""Memory, seen: the recall task, the gradient into the past, the memory horizon."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.rows import Inputs
from experiment.memory import probes as memory
from experiment.memory import task as recall
from experiment.scores.agent import Agent, open_agent
from experiment.scores.evaluation import evaluate
from tests import small
from tests.batches import make_network, random_inputs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny agent. With half of its actions random, its episodes are short."""
    return small.start(tmp_path_factory.mktemp("runs"), "tiny", frames=800)


def success(core: str) -> float:
    """After 150 updates on a wait of two steps."""
    small = {"unroll": 16, "num_envs": 8, "batch_size": 16, "start_rows": 512, "replay_rows": 8192, "core_size": 16}
    config = recall.settings(core, 3, updates=150, game="recall/Recall2-v0", **small)
    return recall.success(config, recall.train(config), wait=2, episodes=200)


def test_a_recurrent_core_remembers_the_cue_and_the_identity_core_cannot() -> None:
    assert success("lstm") > 0.9
    assert success("identity") < 0.35


def opened(run: Path) -> Agent:
    return open_agent(run, eval_episodes=2, eval_epsilon=0.5, seed=5)


def scores_and_actions(agent: Agent, wipe_every: int) -> list[object]:
    found = evaluate(agent.network, agent.config, agent.protocol, wipe_every=wipe_every)
    return [*found.scores, *(record.actions.tobytes() for record in found.records)]


def test_an_agent_wiped_every_step_plays_as_one_that_starts_from_nothing_at_every_row(run: Path) -> None:
    agent, other = opened(run), opened(run)
    core = copy.copy(other.network.core)
    other.network.core.forward = lambda x, state, is_first: core(x, state, torch.ones_like(is_first))
    assert scores_and_actions(agent, 1) == scores_and_actions(other, 0)


def test_the_horizon_command_writes_every_k_with_its_interval(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "horizon.json"
    flags = ["--episodes", "2", "--every", "4", "--epsilon", "0.5", "--threads", "1", "--out", str(out)]
    assert memory.main(["horizon", str(run), *flags]) == 0
    found = json.loads(out.read_text())
    assert list(found["wiped_every"]) == ["4", "never"]
    for row in found["wiped_every"].values():
        assert row["mean"] == np.mean(row["scores"])
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def episode(rows: int, depth: int) -> tuple[Inputs, torch.Tensor]:
    inputs = random_inputs(rows, 1, depth, starts=0.0)
    inputs.is_first[depth - 1] = True
    return inputs, inputs.prev_action[:, 0].roll(-1)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_gradient_k_steps_back_is_that_of_one_pass_over_the_whole_episode(depth: int) -> None:
    network = make_network(frame_stack=depth, hidden=32, core="gru")
    inputs, action = episode(9, depth)
    end, steps = 8, 5
    norms = memory.gradient_norms(network, inputs, action, [6, end], steps)[1]
    # The same by one backward pass over the whole episode, from its first row.
    seen = []
    network.conv.register_forward_pre_hook(lambda _, given: seen.append(given[0].requires_grad_()))
    network(inputs, network.initial_state(1))[0][end, 0, action[end]].backward()
    whole = seen[0].grad.flatten(1).norm(dim=1)  # [rows]
    np.testing.assert_allclose(norms, whole[end - steps : end + 1].flip(0), rtol=1e-4)
    assert (norms > 0).all()


def test_the_gradient_of_a_feed_forward_network_does_not_reach_back() -> None:
    network = make_network(core="identity")
    inputs, action = episode(9, 1)
    norms = memory.gradient_norms(network, inputs, action, [8], 4)[0]
    assert norms[0] > 0
    assert norms[1:].tolist() == [0.0] * 4


def test_the_gradient_command_draws_the_trained_core_and_new_ones_each_1_at_k_0(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "gradient.json"
    flags = "--episodes 1 --steps 8 --states 3 --fresh 1 --epsilon 0.5 --threads 1 --out".split()
    assert memory.main(["gradient", str(run), *flags, str(out)]) == 0
    curves = json.loads(out.read_text())["curves"]
    assert list(curves) == ["lstm, trained", "rnn, new", "lstm1997, new", "lstm, new", "gru, new"]
    for curve in curves.values():
        assert curve["states"] == 3
        for kind in ("median", "quartile_low", "quartile_high"):
            assert curve[kind][0] == 1
            assert len(curve[kind]) == 9
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "is not one of recall, gradient, horizon"),
        ("recal", "Did you mean recall?"),
        ("horizon", "needs the folder of one run"),
        ("horizon nowhere", "nowhere: holds no checkpoint"),
        ("horizon RUN --every 4 x", "--every x: "),
        ("horizon RUN --every 0 4", "--every 0: "),
        ("gradient RUN --steps 0", "--steps 0: "),
        ("horizon RUN --out figure.png", "--out figure.png: must end in .json"),
        ("recall --out /proc/no/r.json", "/proc/no/r.json: cannot be written"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    run: Path, words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert memory.main(words.replace("RUN", str(run)).split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_an_agent_without_memory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = small.start(tmp_path, "plain", "dqn", frames=800)
    capsys.readouterr()
    assert memory.main(["horizon", str(folder)]) == 2
    assert "dqn has no memory (core identity)" in capsys.readouterr().err
