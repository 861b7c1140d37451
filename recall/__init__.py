"""The Python interface: `from recall import load_agent, metrics, play, train`.

In a checkout, the code is beside this folder: the first use of a name of this module puts the
checkout at the front of Python's path. In an installed copy, the code is inside this package, as
`recall.code.agents` and so on (setup.py), so that names such as agents, envs and train stay free.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
IS_INSTALLED = (HERE / "code").is_dir()
FACE = ("load_agent", "metrics", "play", "train")
PROGRAMS = {
    "train": "train",
    "evaluate": "evaluate",
    "compare": "compare",
    "memory": "experiment.memory.probes",
    "track": "experiment.runs.trackers",
}


def _room(name: str) -> Any:
    """One of our modules, by its name in a checkout."""
    if IS_INSTALLED:
        return import_module(f"recall.code.{name}")
    if str(HERE.parent) not in sys.path:
        sys.path.insert(0, str(HERE.parent))
    return import_module(name)


def __getattr__(name: str) -> Any:
    if name not in FACE:
        raise AttributeError(f"module 'recall' has no attribute {name!r}: it has {', '.join(FACE)}")
    _room("agents")
    return getattr(import_module("recall.face"), name)


def main() -> int:
    """recall PROGRAM ...: run the program of that name; returns its exit status."""
    program, words = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if program not in PROGRAMS:
        print(f"usage: recall {{{','.join(PROGRAMS)}}} ...   (recall train --help tells the flags)")
        return 0 if program in ("-h", "--help") else 2
    return _room(PROGRAMS[program]).main(words)
