"""What an agent is worth: evaluations, intervals, films."""
