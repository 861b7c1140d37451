"""Memory, seen: the recall task, the gradient into the past, the memory horizon."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.networks import NetworkSettings, QNetwork
from agents.rows import Inputs
from experiment.memory import probes as memory
from experiment.memory import task as recall
from experiment.scores.agent import Agent, open_agent
from experiment.scores.evaluation import evaluate
from tests import small


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny agent. With half of its actions random, its episodes are short."""
    return small.start(tmp_path_factory.mktemp("runs"), "tiny", frames=800)


# --- the recall task ----------------------------------------------------------------------------------------------


def success(core: str) -> float:
    """After 150 updates on a wait of two steps."""
    small = {"unroll": 16, "num_envs": 8, "batch_size": 16, "start_rows": 512, "replay_rows": 8192, "core_size": 16}
    config = recall.settings(core, 3, updates=150, game="recall/Recall2-v0", **small)
    return recall.success(config, recall.train(config), wait=2, episodes=200)


def test_a_recurrent_core_remembers_the_cue() -> None:
    assert success("lstm") > 0.9


def test_the_identity_core_cannot() -> None:
    assert success("identity") < 0.35


# --- wiping -------------------------------------------------------------------------------------------------------


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


def test_never_wiping_is_the_plain_evaluation_bit_for_bit(run: Path) -> None:
    agent = opened(run)
    plain = evaluate(agent.network, agent.config, agent.protocol)
    assert scores_and_actions(agent, 0) == [*plain.scores, *(record.actions.tobytes() for record in plain.records)]
    assert scores_and_actions(agent, 10**6) == scores_and_actions(agent, 0)  # only before the first step


def test_the_horizon_command_writes_every_k_with_its_interval(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "horizon.json"
    flags = ["--episodes", "2", "--every", "4", "--epsilon", "0.5", "--threads", "1", "--out", str(out)]
    assert memory.main(["horizon", str(run), *flags]) == 0
    found = json.loads(out.read_text())
    assert list(found["wiped_every"]) == ["4", "never"]
    for row in found["wiped_every"].values():
        assert row["mean"] == np.mean(row["scores"])
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


# --- the gradient -------------------------------------------------------------------------------------------------


def episode(rows: int, depth: int) -> tuple[Inputs, torch.Tensor]:
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(256, size=(depth - 1 + rows, 1, 84, 84), dtype=np.uint8))
    is_first = torch.arange(1 - depth, rows)[:, None] == 0
    action = torch.from_numpy(rng.integers(3, size=rows))
    return Inputs(frames, is_first, action.roll(1)[:, None], torch.zeros(rows, 1)), action


@pytest.mark.parametrize("depth", [1, 2])
def test_the_gradient_k_steps_back_is_that_of_one_pass_over_the_whole_episode(depth: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = QNetwork(
            3, NetworkSettings(frame_stack=depth, hidden=32, core="gru", core_size=8, norm=False, center=False)
        )
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
    network = QNetwork(3, NetworkSettings(hidden=8, core="identity"))
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
        for kind in ("median", "mean", "quartile_low", "quartile_high"):
            assert curve[kind][0] == 1
            assert len(curve[kind]) == 9
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


# --- wrong input --------------------------------------------------------------------------------------------------

WRONG = [
    ("", "is not one of recall, gradient, horizon"),
    ("recal", "Did you mean recall?"),
    ("recall --seed 3", "Did you mean --seeds?"),
    ("recall --seeds 0", "--seeds 0: "),
    ("recall --updates many", "--updates many: "),
    ("horizon", "needs the folder of one run"),
    ("horizon nowhere", "nowhere: no such run folder"),
    ("horizon RUN --episodes 0", "--episodes 0: "),
    ("horizon RUN --epsilon 2", "--epsilon 2: "),
    ("horizon RUN --every 4,x", "--every 4,x: expected whole numbers"),
    ("horizon RUN --every 0,4", "--every 0,4: expected whole numbers"),
    ("horizon RUN --threads 100000", "--threads 100000"),
    ("gradient RUN --steps 0", "--steps 0: "),
    ("gradient RUN --seed -1", "--seed -1: "),
    ("horizon RUN --out /proc/no/h.json", "/proc/no/h.json: cannot be written"),
    ("horizon RUN --out figure.png", "--out figure.png: must end in .json"),
    ("recall --out /proc/no/r.json", "/proc/no/r.json: cannot be written"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
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
    assert capsys.readouterr().err == (
        f"error: {folder}: dqn has no memory (core identity), so there is nothing to look at\n"
    )
