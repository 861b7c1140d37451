"""Does bf16 cost learning? One agent in both precisions: the same seeds, frames and evaluation.

python -m benchmarks.precision [--preset dqn] [--game breakout] [--frames 1000000] [--seeds 3] [-- flags]

Where the hardware has no bf16 products they are computed in software: what autocast would hand to a convolution, a
linear or a recurrent layer is rounded to bf16, multiplied and summed in fp32, and the result is rounded; so are the
gradients, on their way back. Between the steps of a recurrent layer nothing is rounded. What was trained before is not
trained again. The flags are those of train.py; there is one thread, and no evaluation on the way.
"""

import agents  # isort: skip  # noqa: F401  (sets OpenMP: before anything imports torch)

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

import train
from evaluate import EvaluateConfig, prepare
from experiment import build
from experiment.scores.evaluation import evaluate
from experiment.scores.intervals import difference_interval, mean_interval
from experiment.store.provenance import machine

PRODUCTS = {torch.conv2d, F.linear, torch.lstm, torch.gru, torch.rnn_tanh}  # what autocast runs in bf16
EVALUATION = EvaluateConfig(episodes=30, epsilon=0.01, seed=1000, threads=1)


class Bf16InSoftware(TorchFunctionMode):
    """Bf16 products wherever autocast is enabled, whatever the hardware. All between them is bf16 as it is."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in PRODUCTS or not torch.is_autocast_enabled("cpu"):
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            wide = tree_map_only(Tensor, lambda x: x.bfloat16().float(), args)
            return tree_map_only(Tensor, Tensor.bfloat16, func(*wide, **(kwargs or {})))


@contextmanager
def autocast_in_software() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16), Bf16InSoftware():
        yield


def score(folder: Path, precision: str, argv: list[str]) -> float:
    """Train the run, or go on with it, and score it: the mean of 30 episodes."""
    with ExitStack() as stack:
        if precision == "bf16" and not build.has_bf16("cpu"):
            stack.enter_context(patch.object(build, "has_bf16", lambda device: True))
            stack.enter_context(patch.object(build, "autocast", lambda config: autocast_in_software))
        flags = [*argv[1:], "--precision", precision]
        place = [argv[0], "--name", folder.name, "--runs-dir", str(folder.parent)]
        if status := train.main(["--resume", str(folder), *flags] if folder.exists() else [*place, *flags]):
            raise SystemExit(status)
        agent = prepare(folder, EVALUATION)
        if agent.about["frames"] < agent.config.frames:
            raise SystemExit("stopped; the same command goes on")
        return evaluate(agent.network, agent.config, agent.protocol).summary(agent.config.game)["mean"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="dqn")
    parser.add_argument("--game", default="breakout")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/precision"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/precision.json"))
    parser.add_argument("flags", nargs="*", default=[])
    wanted = parser.parse_args()
    if wanted.seeds < 2:
        parser.error(f"--seeds {wanted.seeds}: an interval needs 2")
    if not wanted.out.parent.is_dir():
        parser.error(f"--out {wanted.out}: must be a file in a folder that exists")
    same = [wanted.preset, "--game", wanted.game, "--frames", str(wanted.frames)]
    same += ["--eval-frames", "0", "--threads", "1", "--track", "none", *wanted.flags]

    found: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for seed in range(1, wanted.seeds + 1):
        for precision, scores in found.items():
            folder = wanted.runs_dir / f"{wanted.preset}-{wanted.game}-{precision}-s{seed}"
            scores.append(score(folder, precision, [*same, "--seed", str(seed)]))
            print(f"{precision}  seed {seed}  {scores[-1]:.1f}", flush=True)

    about = {"command": " ".join(same), "bf16_in_hardware": build.has_bf16("cpu"), "machine": machine()}
    result: dict[str, Any] = {**about, "episodes": EVALUATION.episodes, "epsilon": EVALUATION.epsilon}
    for precision, scores in found.items():
        low, high = mean_interval(scores)
        result[precision] = {"scores": scores, "mean": sum(scores) / len(scores), "interval_95": [low, high]}
        print(f"{precision}: mean {result[precision]['mean']:.1f}, 95 % interval over seeds {low:.1f} to {high:.1f}")
    low, high = difference_interval(found["bf16"], found["fp32"])
    result["difference_95"] = [low, high]
    print(f"bf16 less fp32: 95 % interval {low:.1f} to {high:.1f}")
    wanted.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
