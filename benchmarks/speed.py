"""Our training loop against the peers', each in a process of its own, in turns."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryFile

from benchmarks.common import ROOT, Effort, Row, better, compare, console

# DQN's network; its newest weights act
PLAIN = "--torso nature --head mean --standardize False --average 0 "
# What the games played against a peer have in common with the peer's: no sticky actions, a lost
# life is an end.
SAME = PLAIN + (
    "--protocol dqn-2015 --replay-rows 100000 --start-rows 1000 --n-step 1 "
    "--loss huber --norm False --center False --batch-size 32 --learning-rate 1e-4 "
)
# One update of 32 rows, or of 32 sequences of 10, for every 4 agent steps: 8 or 80 samples a step.
AT_SB3 = SAME + "--unroll 1 --samples-per-step 8 --double False --target-period 250"
AT_PFRL = SAME + (
    "--frame-stack 1 --trace-lambda None --burn-in 0 --unroll 10 --samples-per-step 80 "
    "--target-period 2500 --hidden 0 --core-size 512 --sequence-stride 1 "
    "--last-action-reward False --max-grad-norm None"
)
# The everyday agents as they were at commit bf9f460, so that speeds can be compared over time.
BEFORE = PLAIN + (
    "--center True --learning-rate 2.5e-4 --batch-size 16 --start-rows 2000 --parts 2"
)
SB3, PFRL = ("sb3, 1 env", "sb3, 8 envs"), ("pfrl",)
OURS = [sys.executable, "-m", "benchmarks.ours"]
PEER = [str(ROOT / ".bench-venv" / "bin" / "python"), "-m"]
COMMANDS = {
    "dqn at sb3's settings": [*OURS, "dqn", *AT_SB3.split(), "--parts", "1"],
    "drqn at pfrl's settings": [*OURS, "drqn", *AT_PFRL.split(), "--parts", "2"],
    "drqn of bf9f460": [*OURS, "drqn", *"--frame-stack 1 --burn-in 8".split(), *BEFORE.split()],
    "dqn of bf9f460": [*OURS, "dqn", *BEFORE.split()],
    "drqn": [*OURS, "drqn", "--start-rows", "2000"],
    "dqn": [*OURS, "dqn", "--start-rows", "2000"],
    "sb3, 1 env": [*PEER, "benchmarks.peer_sb3", "1"],
    "sb3, 8 envs": [*PEER, "benchmarks.peer_sb3", "8"],
    "pfrl": [*PEER, "benchmarks.peer_pfrl"],
}
# Beside a busy process one thread is faster than two: our advice to users, and open to a peer's
# users too.
ALONE = ", 1 thread"
COMMANDS |= {
    name + ALONE: [*COMMANDS[name][:-1], "1", "--threads", "1"] for name in list(COMMANDS)[:2]
}
COMMANDS |= {name + ALONE: COMMANDS[name] for name in ("sb3, 8 envs", "pfrl")}  # OMP_NUM_THREADS
BUSY = "import os\nwhile os.getppid() == {parent}: sum(range(100000))"


class Worker:
    """One side, in a process of its own, that works in turns."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.name, self._errors = name, stack.enter_context(TemporaryFile("w+"))  # noqa: SIM115
        pipe = subprocess.PIPE
        env = os.environ | ({"OMP_NUM_THREADS": "1"} if name.endswith(ALONE) else {})
        self._process = subprocess.Popen(
            COMMANDS[name],
            cwd=ROOT,
            env=env,
            stdin=pipe,
            stdout=pipe,
            stderr=self._errors,
            text=True,
        )
        stack.callback(self._end)

    def _end(self) -> None:
        """No more orders: it cleans up and leaves."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def answer(self) -> dict[str, float | str]:
        """Its next line. RuntimeError with its last words if it has ended."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"{self.name} ended: {self._errors.read()[-2000:]}")
        return json.loads(line)

    def turn(self, seconds: float) -> float:
        """Agent steps a second, over at least so many seconds."""
        assert self._process.stdin
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return float(self.answer()["steps_per_second"])


@contextmanager
def company() -> Iterator[None]:
    """A process that never rests."""
    other = subprocess.Popen([sys.executable, "-c", BUSY.format(parent=os.getpid())])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def steps_per_second(
    names: Sequence[str], seconds: float, pairs: int, busy: bool = False
) -> dict[str, list[float]]:
    """The speed of every side in turn, `pairs` times; with `busy` beside a process that never
    rests."""
    with ExitStack() as stack:
        workers = [Worker(name, stack) for name in names]
        for worker in workers:
            console.print(f"{worker.name}: {worker.answer()}", markup=False)
        if busy:
            stack.enter_context(company())
        found: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(pairs):
            for worker in workers:
                found[worker.name].append(worker.turn(seconds))
        return found


def _against(ours: str, others: Sequence[str], target: float, effort: Effort) -> list[Row]:
    speed = steps_per_second([ours, *others], effort.seconds, effort.pairs)
    best = better({other: speed[other] for other in others})
    return [
        compare(ours, speed[ours], speed[best], "agent steps/s", ">=", target, f"against {best}")
    ]


def _in_company(ours: str, others: Sequence[str], effort: Effort) -> list[Row]:
    """Ours with one thread, against the peer as it is and with one thread."""
    alone, peer_alone = ours + ALONE, others[-1] + ALONE
    # A peer may need seconds for one update.
    seconds = effort.seconds * (1.5 if others is PFRL else 1)
    speed = steps_per_second([alone, *others, peer_alone], seconds, effort.pairs, busy=True)
    best = better({other: speed[other] for other in others})
    return [
        compare(name, speed[alone], speed[other], "agent steps/s", ">=", 4.0, f"against {other}")
        for name, other in (
            (f"{alone}, a core busy", best),
            (f"{alone} each, a core busy", peer_alone),
        )
    ]


def dqn(effort: Effort) -> list[Row]:
    return _against("dqn at sb3's settings", SB3, 2.2, effort)


def drqn(effort: Effort) -> list[Row]:
    return _against("drqn at pfrl's settings", PFRL, 2.2, effort)


def dqn_busy(effort: Effort) -> list[Row]:
    return _in_company("dqn at sb3's settings", SB3, effort)


def drqn_busy(effort: Effort) -> list[Row]:
    return _in_company("drqn at pfrl's settings", PFRL, effort)


def everyday(effort: Effort) -> list[Row]:
    """Our agents of commit bf9f460, 4 samples a step: drqn against the peer, and against dqn."""
    ours, feed_forward = "drqn of bf9f460", "dqn of bf9f460"
    speed = steps_per_second([ours, *SB3, feed_forward], effort.seconds, effort.pairs)
    best = better({side: speed[side] for side in SB3})
    frames = {side: [4 * x for x in speed[side]] for side in speed}
    sample = {side: [1e6 / (4 * x) for x in speed[side]] for side in speed}
    memory = "the price of memory: drqn of bf9f460 against dqn of bf9f460"
    return [
        compare(
            ours,
            frames[ours],
            frames[best],
            "frames/s",
            ">=",
            10.0,
            f"against {best}, an update of 32 for 4 steps",
        ),
        compare(
            "price of memory", sample[ours], sample[feed_forward], "us/sample", "<=", 1.25, memory
        ),
    ]


def neighbour(effort: Effort) -> list[Row]:
    """Our agents of today and of commit bf9f460 beside a process that never rests, and alone."""
    rows = []
    for name in ("drqn", "dqn", "drqn of bf9f460", "dqn of bf9f460"):
        beside, alone = [], []
        with ExitStack() as stack:
            worker = Worker(name, stack)
            worker.answer()
            for _ in range(effort.pairs):
                with company():
                    beside.append(4 * worker.turn(effort.seconds))
                alone.append(4 * worker.turn(effort.seconds))
        note = "beside one process that never rests, against alone"
        rows.append(compare(f"{name}, a core busy", beside, alone, "frames/s", ">=", 0.45, note))
    return rows
