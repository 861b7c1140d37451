"""The score of one action, taken at every step: what an agent that ignores the screen can score.

python -m benchmarks.one_action [--game space_invaders] [--episodes 10] [--epsilon 0.01] [--seed 1]

An agent with a higher score uses the screen. The best action's score by protocol v5 goes into the
reports of studies, as the level "held button". Episodes, random actions and seeds are those of
evaluate.py and experiment.memory.probes with the same flags.
"""

import agents  # isort: skip  # noqa: F401  (sets OpenMP: before anything imports torch)

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from pydantic.dataclasses import dataclass

from agents.fields import FORBID, Share
from agents.networks import QNetwork
from envs.emulator import machine
from envs.families import is_atari
from envs.protocols import PROTOCOLS
from experiment import build
from experiment.scores.evaluation import evaluate, spread
from experiment.settings.cli import exit_on_usage_error, parse
from experiment.settings.config import Config, Episodes, Seed, Settings, UsageError, preset
from experiment.store.files import write_json

# For the reports of studies.
HELD_BUTTONS = Path(__file__).parents[1] / "experiment" / "studies" / "held_buttons.json"


@dataclass(frozen=True, config=FORBID)
class OneActionConfig(Settings):
    """Score each action of a game, taken at every step."""

    game: str = "space_invaders"
    """Game."""
    protocol: str = "v5"
    """Protocol."""
    episodes: Episodes = 10
    """Whole episodes of each action."""
    epsilon: Share = 0.01
    """Share of random actions. With few, a game that waits for a serve lasts its full half hour."""
    seed: Seed = 1
    """Of the games and the random actions."""


@torch.no_grad()
def always(action: int, config: Config, num_actions: int) -> QNetwork:
    """A network that values this action at 1 and the others at 0, whatever it sees."""
    network = build.make_network(config, num_actions)
    for parameter in network.parameters():
        parameter.zero_()
    network.head.advantage.bias.view(num_actions, -1)[action] = 1  # type: ignore[index]
    return network


@exit_on_usage_error
def main(argv: list[str]) -> int:
    text = "Score each action of a game, taken at every step."
    options = parse("benchmarks.one_action", argv, OneActionConfig(), text)
    rules = {"episodes": options.episodes, "epsilon": options.epsilon, "seed": options.seed}
    game = {"game": options.game, "protocol": options.protocol, "seed": options.seed}
    play = {"eval_episodes": options.episodes, "eval_epsilon": options.epsilon}
    small = {"torso": "dqn-2013", "hidden": 0, "frame_stack": 1, "start_rows": 0, "threads": 1}
    config = replace(preset("dqn"), **game, **play, **small)
    if not is_atari(config.game):
        raise UsageError(f"--game {config.game}: must be an Atari game")
    build.check_machine(config)
    protocol = PROTOCOLS[config.protocol]
    build.use_threads(config)
    names = machine(config.game).actions(protocol)
    scores = {}
    for action, name in enumerate(names):
        result = evaluate(always(action, config, len(names)), config, protocol)
        summary = result.summary(config.game)
        scores[name] = summary["mean"]
        print(f"{name:14} mean {summary['mean']:7.1f}   {spread(summary)}", flush=True)
    if config.protocol == "v5":
        best = max(scores, key=lambda name: scores[name])
        known = json.loads(HELD_BUTTONS.read_text("utf-8"))
        known[config.game] = {"action": best, "score": scores[best], **rules}
        write_json(HELD_BUTTONS, dict(sorted(known.items())))
        print(f"best           {best}, written to {HELD_BUTTONS}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
