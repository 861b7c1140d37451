"""Where the time of a training step goes, measured inside the training loop, and its speed."""

import time
from collections import defaultdict
from typing import Any

from rich.table import Table

from benchmarks.common import console, describe_machine, go, running, seconds, warm_up
from benchmarks.parts import PRESETS, shares, updates_of
from envs.emulator import FRAME_SKIP

STEPS = 300  # of all envs


def profile(preset: str) -> None:
    """Prints two tables: the parts of a step, the kinds of operation of an update."""
    with running(preset) as run:
        warm_up(run)
        spent: dict[str, float] = defaultdict(float)

        def clock(owner: object, method: str, label: str) -> None:
            call = getattr(owner, method)

            def timed(*arguments: Any) -> Any:
                start = time.perf_counter()
                result = call(*arguments)
                spent[label] += time.perf_counter() - start
                return result

            vars(owner)[method] = timed

        clock(run.player.envs, "send", "environment: send")
        clock(run.player.envs, "recv", "environment: wait for it")
        clock(run.player.actor, "act", "acting")
        clock(run.replay, "sample", "sampling")
        clock(run.learner, "update", "learning")
        clock(run.replay, "append", "appending")
        total = seconds(lambda: go(run, STEPS))
        spent["the rest"] = total - sum(spent.values())
        rate = STEPS * run.config.num_envs * FRAME_SKIP / total
        title = f"{preset}: {rate:,.0f} frames/s"
        shown = Table("part", "ms/step of all envs", "share", title=title)
        for label, part in sorted(spent.items(), key=lambda item: -item[1]):
            shown.add_row(label, f"{1e3 * part / STEPS:.2f}", f"{part / total:.1%}")
        console.print(shown)
        shown = Table("kind of operation", "share", title=f"{preset}: an update")
        for kind, share in shares(updates_of(run)).items():
            shown.add_row(kind, f"{share:.1%}")
        console.print(shown)


if __name__ == "__main__":
    console.print(describe_machine())
    for preset in PRESETS:
        profile(preset)
