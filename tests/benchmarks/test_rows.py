"""The benchmark's own arithmetic, with numbers worked out by hand."""

import json
import subprocess
import sys
from itertools import count

import pytest

from benchmarks.common import ROOT, Row, alternate, compare, updates_per_step
from benchmarks.parts import row_flops, update_flops
from benchmarks.speed import COMMANDS, OURS
from experiment import build
from experiment.settings.cli import parse_train
from experiment.settings.config import Config


def test_the_ratio_is_the_median_of_the_pairs_not_the_ratio_of_the_medians() -> None:
    # Pairs: 2, 3, 1; the ratio of the medians is 3.
    row = compare("x", [10.0, 30.0, 40.0], [5.0, 10.0, 40.0], "steps/s", ">=", 2.0)
    assert (row.ours, row.other, row.ratio, row.pairs) == (30.0, 10.0, 2.0, 3)


@pytest.mark.parametrize(("sense", "beyond"), [(">=", 1.99), ("<=", 2.01)])
def test_a_target_is_met_on_its_own_side_and_on_the_line(sense, beyond) -> None:
    assert [Row("x", r, 1.0, "s", r, sense, 2.0, 5).met for r in (2.0, beyond)] == [True, False]


def test_sides_take_turns() -> None:
    calls = count(1)
    sides = alternate(lambda: 10 + next(calls), lambda: 20 + next(calls), pairs=2)
    assert sides == [[11, 13], [22, 24]]


def test_work_of_a_row_by_hand() -> None:
    config = Config(frame_stack=1, torso="nature", head="mean")
    row, first = row_flops(build.make_network(config, num_actions=4))
    conv1 = 2 * 20 * 20 * 32 * (8 * 8 * 1)
    conv2, conv3 = 2 * 9 * 9 * 64 * (4 * 4 * 32), 2 * 7 * 7 * 64 * (3 * 3 * 64)
    fc, lstm, head = 2 * 3136 * 512, 2 * 4 * 256 * (512 + 4 + 1 + 256), 2 * 256 * 4
    assert first == conv1
    assert row == conv1 + conv2 + conv3 + fc + lstm + head


@pytest.mark.parametrize(
    ("memory", "average", "forward_rows"),
    [
        (512, 0.0, 8 + 20 + 2),
        (0, 0.0, 20 + 2),
        (512, 0.9, 2 * (8 + 20 + 2)),
        (0, 0.9, 20 + 2 + 19 + 2),  # the first row's value by the average is not needed
    ],
)
def test_work_of_an_update_by_hand(memory, average, forward_rows) -> None:
    config = Config(batch_size=3, burn_in=8, unroll=20, n_step=2, average=average)
    # The 20 trained rows go backward, twice the forward but for the gradient of the pixels.
    flops = 3 * (forward_rows * 100 + 20 * (2 * 100 - 10))
    assert update_flops(config, 100, 10, state_size=memory) == flops


def test_a_whole_number_of_updates_takes_the_denominator_in_steps() -> None:
    # 60 samples of 80
    config = Config(num_envs=24, samples_per_step=2.5, batch_size=5, unroll=16)
    assert updates_per_step(config).as_integer_ratio() == (3, 4)


def test_a_worker_counts_only_the_steps_of_its_turn() -> None:
    program = """
from benchmarks.turns import Turns
turns = Turns()
print("noise")
while True: turns.tick(3)
"""
    words, pipes = [sys.executable, "-c", program], {"input": "0\n0.05\n", "capture_output": True}
    done = subprocess.run(words, cwd=ROOT, text=True, check=True, **pipes)
    ready, first, second = map(json.loads, done.stdout.splitlines())
    assert ready == {"ready": True}
    assert first["steps"] == 3
    assert second["steps"] % 3 == 0
    assert second["seconds"] >= 0.05
    assert second["steps_per_second"] == pytest.approx(second["steps"] / second["seconds"])


@pytest.mark.parametrize("command", [c for c in COMMANDS.values() if c[: len(OURS)] == OURS])
def test_every_setting_of_our_sides_is_valid_and_takes_effect(command: list[str]) -> None:
    parse_train(command[len(OURS) :])
