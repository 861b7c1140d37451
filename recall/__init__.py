"""The Python interface: `from recall import load_agent, metrics, play, train`.

In a checkout, the code is beside this folder. In an installed copy, it is inside this folder, so
that other packages can use names such as agents, envs and train. The first use of a name of this
module puts the code's folder at the front of Python's path; other programs never have it there.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "agents").is_dir())
FACE = ("load_agent", "metrics", "play", "train")
PROGRAMS = {name: name for name in ("train", "evaluate", "compare")}
PROGRAMS |= {"memory": "experiment.memory.probes", "track": "experiment.runs.trackers"}


def _room(name: str) -> Any:
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return import_module(name)


def __getattr__(name: str) -> Any:
    if name not in FACE:
        raise AttributeError(f"module 'recall' has no attribute {name!r}: it has {', '.join(FACE)}")
    return getattr(_room("recall.face"), name)


def main() -> int:
    """recall PROGRAM ...: run the program of that name; returns its exit status."""
    program, words = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if program not in PROGRAMS:
        print(f"usage: recall {{{','.join(PROGRAMS)}}} ...   (recall train --help tells the flags)")
        return 0 if program in ("-h", "--help") else 2
    return _room(PROGRAMS[program]).main(words)
