"""Train one agent on one game: the whole loop, read from top to bottom.

python train.py [PRESET] [--game G] [--frames N] [--seed S] ...
python train.py --resume runs/NAME
python train.py --config FILE.yaml
"""

import sys

import numpy as np

from experiment.runs.run import Run
from experiment.runs.session import open_run
from experiment.settings.cli import exit_on_usage_error, parse_train


def train(run: Run) -> None:
    """Play and learn until the run has all its frames or has to stop."""
    config, player, replay, learner = run.config, run.player, run.replay, run.learner
    run.evaluate_if_due()  # an earlier stop may have postponed one
    while run.frames < config.frames and not run.stop_asked:
        epsilon = run.epsilon(run.frames, config.num_envs)  # [N]
        player.act(epsilon)  # the emulators, here or on --actors, run during the updates

        for _ in range(run.updates_due()):
            batch = replay.sample(config.batch_size)
            update = learner.update(batch)
            replay.update_priorities(batch.origin, update.priority)
            run.meter.add_update(update.metrics)

        rows = player.recv()
        replay.append(rows)
        run.advance(rows.steps, float(np.mean(epsilon)))


@exit_on_usage_error
def main(argv: list[str]) -> int:
    config, resume = parse_train(argv)
    with open_run(config, resume) as run:
        train(run)
        run.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
