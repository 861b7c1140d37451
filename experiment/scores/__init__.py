"""Scores of agents: evaluations, intervals, films."""
