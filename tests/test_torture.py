"""A short form of tests.torture: one trial, a few kills of real processes."""

import pytest

from tests import torture


def test_a_run_killed_at_random_moments_is_the_run_that_was_never_stopped(
    capsys: pytest.CaptureFixture[str],
):
    status = torture.main(["--kills", "2", "--frames", "2100", "--seed", "4"])
    out = capsys.readouterr().out
    assert status == 0, out
    assert out.splitlines()[-1].startswith("kills 2, resumes ")
    assert out.splitlines()[-1].endswith(", mismatches 0")
