"""The measured side of a benchmark: works when told to, and uses no processor in between.

Shared by our own worker and by the peers', so it imports nothing outside the standard library. One
line on standard input starts a turn of so many seconds; one JSON line on standard output tells what
was done in it.
"""

import json
import os
import sys
import time


class Turns:
    """Call `tick` after whole update periods, once learning is under way."""

    def __init__(self, **about: str) -> None:
        self._about = about
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # whatever else is printed goes to standard error
        self._begun: float | None = None
        self._seconds, self._steps = 0.0, 0

    def tick(self, steps: int) -> None:
        """`steps` more agent steps, of all environments. Ends the program when the orders end."""
        if self._begun is None:
            self._say({"ready": True, **self._about})
            self._wait()
            return
        self._steps += steps
        passed = time.perf_counter() - self._begun
        if passed >= self._seconds:
            counts = {"steps": self._steps, "seconds": passed}
            self._say({**counts, "steps_per_second": self._steps / passed})
            self._wait()

    def _say(self, message: dict[str, object]) -> None:
        self._out.write(json.dumps(message) + "\n")

    def _wait(self) -> None:
        line = sys.stdin.readline()
        if not line.strip():
            sys.exit(0)
        self._seconds, self._steps, self._begun = float(line), 0, time.perf_counter()
