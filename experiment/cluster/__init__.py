"""Beyond one machine, on Ray (the extra `ray`)."""
