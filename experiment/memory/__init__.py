"""Memory: a task that needs memory, and probes of trained agents."""
