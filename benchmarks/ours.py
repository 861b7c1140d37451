"""Our side of a comparison: train.py's own loop, timed in turns, with the flags of train.py."""

import sys

from benchmarks.common import after_each_step, running, updates_per_step, warm_up
from benchmarks.turns import Turns
from experiment.settings.cli import parse_train
from train import train


def main(argv: list[str]) -> None:
    turns, steps = Turns(), [0]
    with running(parse_train(argv)[0]) as run:
        period = updates_per_step(run.config).denominator

        def tick() -> None:
            steps[0] += 1
            if steps[0] % period == 0:
                turns.tick(period * run.config.num_envs)

        warm_up(run, 20)
        with after_each_step(run, tick):
            train(run)


if __name__ == "__main__":
    main(sys.argv[1:])
