"""Bad words on a command line: one line that names the flag, status 2, nothing written. For every
setting there is."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

import train
from experiment.settings.cli import exit_on_usage_error, given, parse_train
from experiment.settings.config import Config, flag, preset, save
from experiment.settings.presets import PRESETS

ROOT = Path(__file__).parents[3]
SCHEMA: dict[str, dict[str, Any]] = TypeAdapter(Config).json_schema()["properties"]
FLAGS = [name for name, field in SCHEMA.items() if not field.get("positional")]


def refused(argv: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Start a run that must be refused; its one line."""
    assert train.main([*argv, f"--runs-dir={folder / 'runs'}"]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    (line,) = out.err.splitlines()
    assert not list(folder.iterdir())
    return line


def wrong_values(name: str) -> list[str]:
    """Words outside the setting's own range: its neighbours, another type, an unknown name."""
    wrong: list[str] = []
    for part in SCHEMA[name].get("anyOf", [SCHEMA[name]]):
        step = 1 if part.get("type") == "integer" else 1e-3
        limits = {"minimum": -step, "maximum": step, "exclusiveMinimum": 0, "exclusiveMaximum": 0}
        wrong += [str(part[limit] + beyond) for limit, beyond in limits.items() if limit in part]
        wrong += {
            "integer": ["many", "1.5", "None"],
            "number": ["many", "nan"],
            "boolean": ["maybe", "2"],
        }.get(part.get("type", "enum"), ["zzz"] if "enum" in part else [])
    return wrong or {"name": ["a/b"]}.get(name, ["zzz"])


@pytest.mark.parametrize("name", sorted({*FLAGS} - {"runs_dir"}))
def test_what_is_wrong_with_a_flag_is_one_line_that_names_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for word in wrong_values(name):  # outside its range
        assert refused([f"{flag(name)}={word}"], tmp_path, capsys).startswith(
            f"error: {flag(name)} {word}: "
        )
    typo = flag(name)[:-1] + "q"
    line = refused([typo, "1"], tmp_path, capsys)
    assert line == f"error: unknown flag {typo}. Did you mean {flag(name)}? See --help."
    alone = "True" if SCHEMA[name].get("type") == "boolean" else SCHEMA[name].get("alone")
    if alone:  # without a value it says this
        assert given("", [flag(name)], Config()) == {name: alone}
    else:
        assert re.match(
            rf"error: {flag(name)}(/--env)?: expected one", refused([flag(name)], tmp_path, capsys)
        )
    value = f"{flag(name)}={getattr(Config(), name)}"
    assert f"{flag(name)}: given twice" in refused([value, value], tmp_path, capsys)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("drqnn", "preset drqnn: must be one of"),
        ("drqnn", "Did you mean drqn?"),
        ("dqn stray", "stray: not expected"),
        ("--core LSTM", "Did you mean lstm?"),
        ("--game SpaceInvaders", "did you mean 'space_invaders'?"),
        (
            "--observe flicker:1.5",
            "--observe flicker:1.5: flicker takes a number from 0 to 1, not 1.5",
        ),
        ("--device cpu:1", "--device cpu:1: must be cpu, cuda or cuda:N"),
        ("--name ..", "--name ..: must be a plain folder name"),
        ("--value-rescaling True", "--value-rescaling True: needs --reward-clip None, not 1"),
        ("--burn-in 3000", "--burn-in, --unroll and --n-step: 3017 rows together; at most 2000"),
        ("dqn --resume x", "--resume x: takes the place of preset dqn"),
        ("--config y --resume x", "--config y: takes the place of resume x"),
        ("--resume", "--resume: expected one argument"),
        ("--resume=nowhere", "--runs-dir"),  # the folder says where the run lies
        ("--config=nowhere", "error: nowhere: cannot be read (no such file)"),
    ],
)
def test_words_that_do_not_fit_are_refused(
    words: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(words.split(), tmp_path, capsys)


def test_flags_override_a_preset() -> None:
    config, resume = parse_train(
        "r2d2 --game pong --trace_lambda 0.5 --double=False --observe flicker".split()
    )
    changes = {"game": "pong", "trace_lambda": 0.5, "double": False, "observe": "flicker:0.5"}
    assert vars(config) == vars(preset("r2d2")) | changes
    assert resume is None
    assert parse_train([])[0] == preset("drqn")
    assert parse_train(["--reward-clip", "None"])[0].reward_clip is None


def test_config_starts_from_a_saved_file_or_one_by_hand_and_flags_override_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "config.yaml"
    save(parse_train("r2d2 --game pong --core gru".split())[0], path)
    config, resume = parse_train(["--config", str(path), "--seed", "3"])
    assert vars(config) == vars(preset("r2d2")) | {"game": "pong", "core": "gru", "seed": 3}
    assert resume is None
    path.write_text("preset: dqn\ngame: pong\nreward_clip: null\n")
    changes = {"game": "pong", "reward_clip": None}
    assert vars(parse_train(["--config", str(path)])[0]) == vars(preset("dqn")) | changes


def test_a_setting_without_effect_is_refused_on_the_command_line_and_in_a_file_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    says = "--core-size 8: has no effect with --core identity"
    (tmp_path / "runs").mkdir()
    assert says in refused(["dqn", "--core-size", "8"], tmp_path / "runs", capsys)
    path = tmp_path / "mine.yaml"
    path.write_text("preset: dqn\ncore_size: 8\n")
    assert says in refused(["--config", str(path)], tmp_path / "runs", capsys)


def test_resume_reads_the_settings_of_the_run_and_leaves_name_and_place(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    save(parse_train("dqn --game pong".split())[0], run / "config.yaml")
    config, resume = parse_train(["--resume", str(run), "--frames", "77"])
    assert vars(config) == vars(preset("dqn")) | {"game": "pong", "frames": 77}
    assert resume == run


def test_help_shows_explanation_range_and_the_presets_value_of_every_setting(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as leaving:
        train.main(["r2d2", "--help"])
    assert leaving.value.code == 0
    shown = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    for name in FLAGS:
        assert flag(name) in shown
    assert "Discount" in shown
    assert "(>= 0 and < 1; default: 0.997)" in shown
    assert ", ".join(PRESETS) in shown


def test_help_into_a_pipe_that_nobody_reads_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "train.py", "--help"],
        cwd=ROOT,
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_name_that_the_terminals_encoding_lacks_is_printed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="iso-8859-1"))

    @exit_on_usage_error
    def main(argv: list[str]) -> int:
        print("runs/\u03bb")
        return 0

    assert main([]) == 0
    assert written.getvalue() == b"runs/\\u03bb\n"


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (
            PermissionError(13, "Permission denied", "runs/x"),
            2,
            "error: runs/x: Permission denied\n",
        ),
        (UnicodeEncodeError("latin-1", "λ", 0, 1, "no"), 2, "error: 'latin-1' codec can't encode"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_errors_of_files_and_interruptions_are_one_line(
    error: BaseException, status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @exit_on_usage_error
    def main(argv: list[str]) -> int:
        raise error

    assert main([]) == status
    assert capsys.readouterr().err.startswith(says)
