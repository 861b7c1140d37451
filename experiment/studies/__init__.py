"""Many runs: the grid, its jobs, what they show."""
