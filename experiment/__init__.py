"""Runs: their settings, files, scores, films and studies."""

import agents  # noqa: F401  (sets OpenMP and the allocator before anything imports torch)
