"""The cost of films: game seconds that a CPU second renders, and the size of five minutes."""

import agents  # isort: skip  # noqa: F401  (sets OpenMP before torch is imported)

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.common import Effort, Row
from experiment import build
from experiment.scores.agent import Agent
from experiment.scores.evaluation import evaluate
from experiment.scores.films import Film, game_film, overlay_film
from experiment.settings.config import override, preset

GAME = "boxing"  # all 18 actions; two minutes, whoever plays
TARGET = 8.0  # times as fast as the game


def rendering(effort: Effort) -> list[Row]:
    """An episode of random play: as the game alone, and with the overlays of both agents.

    The values are those of a new network. The time is CPU time of this process, whose encoder has
    one thread: other work disturbs it little.
    """
    rows = []
    for name in ("dqn", "drqn"):
        play = {"game": GAME, "threads": 1, "eval_episodes": 1, "eval_epsilon": 1.0}
        config = override(preset(name), play)
        actions = build.task(config).action_names
        network, protocol = build.make_network(config, len(actions)), build.rules(config)
        agent = Agent(Path(), config, config, protocol, network, {})
        (record,) = evaluate(network, config, protocol).records
        played = record.steps / 15  # seconds
        films: dict[str, Callable[[], Film]] = {}
        films[f"{name} overlay"] = partial(overlay_film, agent, record)
        if not rows:
            films["the game alone"] = partial(game_film, record)
        for what, film in films.items():
            speeds, size = [], 0.0
            with TemporaryDirectory() as folder:
                for _ in range(effort.pairs):
                    start = time.process_time()
                    path = film().write(Path(folder) / "film.mp4")
                    speeds.append(played / (time.process_time() - start))
                    size = path.stat().st_size / 1e6 * 300 / played
            megabytes = f"five minutes take {size:.1f} MB"
            note = f"{record.steps:,} steps of {GAME}; {megabytes}; other: real time"
            speed = median(speeds)
            figures = speed, 1.0, "game s/CPU s", speed, ">=", TARGET
            rows.append(Row(f"film, {what}", *figures, effort.pairs, note))
    return rows
