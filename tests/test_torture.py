"""A short form of tests.torture: one trial, a few kills of real processes."""

import re

from tests import torture


def test_a_run_killed_at_random_moments_is_the_run_that_was_never_stopped(capsys) -> None:
    status = torture.main("--kills 2 --frames 2100 --seed 4".split())
    out = capsys.readouterr().out
    assert status == 0, out
    assert re.search(r"\nkills 2, resumes \d, mismatches 0\n$", out)
