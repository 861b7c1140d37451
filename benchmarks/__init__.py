"""Speed, memory and score, in ratios taken in one run: `python -m benchmarks` and `.profile`."""
