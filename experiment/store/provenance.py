"""The machine and the code that compute a run: bit-exact resuming depends on both."""

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

from experiment import ROOT


def machine() -> dict[str, str]:
    """The properties, besides precision, that the bits of a run depend on: CPU and versions."""
    info = Path("/proc/cpuinfo")  # Linux only
    text = info.read_text(errors="replace") if info.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)", text, re.MULTILINE)
    return {
        # Without a model, the processor's family or architecture.
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "ale_py": version("ale-py"),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def commit() -> str | None:
    """The commit of this code, with + if files differ from it; None outside a git clone.

    The environment variable RECALL_COMMIT takes its place: Ray's workers have no clone.
    """
    if sent := os.environ.get("RECALL_COMMIT"):
        return sent
    git = ["git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--dirty=+"]
    # A clone around this folder does not count.
    inside = os.environ | {"GIT_CEILING_DIRECTORIES": str(ROOT.parent)}
    with contextlib.suppress(OSError):  # without git
        return (
            subprocess.run(git, capture_output=True, text=True, env=inside).stdout.strip() or None
        )
    return None


def exactness_lost(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`key old -> new` for each difference from a checkpoint's machine and code.

    With any difference the run continues, but not bit for bit.
    """
    return [
        f"{key} {before.get(key)!r:.80} -> {value!r}"
        for key, value in now.items()
        if before.get(key) != value
    ]
