"""The machine and the code that computed a run: written into its checkpoints, since exactness
depends on them."""

import contextlib
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch


def machine() -> dict[str, str]:
    """The properties that exactness depends on, besides precision; the number of threads is none of
    them."""
    return {
        "cpu": _cpu(),
        "torch": torch.__version__,
        "ale_py": version("ale-py"),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _cpu() -> str:
    """The processor's model; Linux alone tells it."""
    info = Path("/proc/cpuinfo")
    model = re.search(
        r"^model name\s*:\s*(.+)",
        info.read_text(errors="replace") if info.exists() else "",
        re.MULTILINE,
    )
    return model[1] if model else platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of this code, with + if files differ from it; None outside a git clone.

    Code that was sent to another machine has no clone around it: RECALL_COMMIT tells what was sent.
    """
    if sent := os.environ.get("RECALL_COMMIT"):
        return sent
    root = Path(__file__).resolve().parents[2]
    # Not that of a clone around this folder.
    inside = os.environ | {"GIT_CEILING_DIRECTORIES": str(root.parent)}
    with contextlib.suppress(OSError):
        git = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--dirty=+"]
        return (
            subprocess.run(
                git, capture_output=True, text=True, env=inside, check=False
            ).stdout.strip()
            or None
        )
    return None


def exactness_lost(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences from the machine and code of a checkpoint: the run continues, but not bit for
    bit."""
    return [
        f"{key} {before.get(key)!r:.80} -> {value!r}"
        for key, value in now.items()
        if before.get(key) != value
    ]
