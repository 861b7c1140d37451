"""A short run of tests.fuzz, and proof that it would notice."""

import sys

import pytest

from tests import fuzz


def test_damaged_and_made_up_inputs_end_with_status_0_or_with_one_line_and_2(capsys) -> None:
    assert fuzz.main(["--inputs", "40"]) == 0, capsys.readouterr().out
    assert capsys.readouterr().out.endswith("inputs 40, crashes 0\n")


@pytest.mark.parametrize("text", ["", "one\ntwo"])
def test_a_traceback_and_a_refusal_of_two_lines_are_crashes(text, monkeypatch, capsys) -> None:
    def refuse(lab, _):
        print(text, file=sys.stderr)
        return 2 if text else 1 // 0

    for kind in ("checkpoints", "configs"):
        monkeypatch.setattr(fuzz.Lab, kind, refuse)
    assert fuzz.main(["--inputs", "2"]) == 1
    assert capsys.readouterr().out.endswith("inputs 2, crashes 2\n")
