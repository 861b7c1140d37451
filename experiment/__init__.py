"""Runs: their settings, files, scores, films and studies."""

from pathlib import Path

import agents  # noqa: F401  (sets OpenMP and the allocator before anything imports torch)

IS_INSTALLED = __name__ != "experiment"  # as recall.code.experiment (setup.py)
# Where Python finds our top packages: a checkout, or site-packages.
ROOT = Path(__file__).resolve().parents[__name__.count(".") + 1]
