"""Studies of many runs: the grid, its jobs and its report."""
