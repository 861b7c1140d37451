"""Speed and memory, in ratios taken in one run: `python -m benchmarks`, `.profile` and `.scaling`."""
