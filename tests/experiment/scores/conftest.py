"""An agent, a record of its play, and the trace of the one on the other."""

from pathlib import Path

import pytest

from envs.episodes import EpisodeRecord
from envs.protocols import PROTOCOLS
from experiment import build
from experiment.scores.agent import Agent
from experiment.scores.evaluation import evaluate
from experiment.scores.trace import Trace, trace
from experiment.settings.config import Config

NETWORK = dict(torso="nature", hidden=16, core_size=8, frame_stack=2, precision="fp32", threads=1)
PLAY = dict(game="breakout", observe="flicker:0.5", eval_episodes=1, eval_epsilon=0.5, seed=4)
CONFIG = Config(**NETWORK | PLAY)


@pytest.fixture(scope="package")
def agent() -> Agent:
    network = build.make_network(CONFIG, 4)
    return Agent(Path("runs/x"), CONFIG, CONFIG, PROTOCOLS["v5"], network, {"frames": 0})


@pytest.fixture(scope="package")
def record(agent) -> EpisodeRecord:
    return evaluate(agent.network, CONFIG, agent.protocol).records[0]


@pytest.fixture(scope="package")
def numbers(agent, record) -> Trace:
    return trace(agent.network, CONFIG, record, saliency=True)
