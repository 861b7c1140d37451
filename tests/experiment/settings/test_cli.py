"""Bad words on a command line: one line that names the flag, status 2, nothing written."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter

import train
from experiment.settings.cli import exit_on_usage_error, given, parse_train
from experiment.settings.config import Config, UsageError, flag, override, preset, to_yaml
from experiment.settings.presets import PRESETS
from tests.small import ROOT

SCHEMA = TypeAdapter(Config).json_schema()["properties"]
FLAGS = [name for name, field in SCHEMA.items() if not field.get("positional")]


@pytest.fixture
def refused(tmp_path, capsys):
    """Starts a run that must be refused, before anything is written; its one line."""

    def start(*argv: str) -> str:
        before = [*tmp_path.iterdir()]
        assert train.main([*argv, f"--runs-dir={tmp_path / 'runs'}"]) == 2
        out, err = capsys.readouterr()
        (line,) = err.splitlines()
        assert (out, [*tmp_path.iterdir()]) == ("", before)
        return line

    return start


def wrong_values(name: str) -> list[str]:
    """Words outside the setting's own range: its neighbours, another type, an unknown name."""
    others = dict(integer=["many", "1.5", "None"], number=["many", "nan"], boolean=["maybe", "2"])
    wrong: list[str] = []
    for part in SCHEMA[name].get("anyOf", [SCHEMA[name]]):
        step = 1 if part.get("type") == "integer" else 1e-3
        limits = {"minimum": -step, "maximum": step, "exclusiveMinimum": 0, "exclusiveMaximum": 0}
        wrong += [str(part[limit] + beyond) for limit, beyond in limits.items() if limit in part]
        wrong += others.get(part.get("type", "enum"), ["zzz"] if "enum" in part else [])
    return wrong or {"name": ["a/b"]}.get(name, ["zzz"])


@pytest.mark.parametrize("name", sorted({*FLAGS} - {"runs_dir"}))
def test_what_is_wrong_with_a_flag_is_one_line_that_names_it(name, refused) -> None:
    word = flag(name)
    for value in wrong_values(name):
        assert refused(f"{word}={value}").startswith(f"error: {word} {value}: ")
    typo = f"{word[:-1]}q"
    says = f"error: unknown flag {typo}. Did you mean {word}? See --help."
    assert refused(typo, "1") == says
    alone = "True" if SCHEMA[name].get("type") == "boolean" else SCHEMA[name].get("alone")
    if alone:  # without a value it says this
        assert given("", [word], Config()) == {name: alone}
    else:
        assert re.match(rf"error: {word}(/--env)?: expected one", refused(word))
    assert f"{word}: given twice" in refused(*[f"{word}={getattr(Config(), name)}"] * 2)


def test_a_flag_and_its_alias_are_the_same_flag(refused) -> None:
    line = "error: --game and --env: given twice"
    assert refused("--game", "pong", "--env", "breakout") == line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("drqnn", "preset drqnn: must be one of"),
        ("drqnn", "Did you mean drqn?"),
        ("dqn stray", "stray: not expected"),
        ("--core LSTM", "Did you mean lstm?"),
        ("--precision bf61", "must be 'auto', 'bf16' or 'fp32'. Did you mean bf16?"),
        ("--game SpaceInvaders", "did you mean 'space_invaders'?"),
        ("--observe flicker:1.5", "flicker:1.5: flicker takes a number from 0 to 1, not 1.5"),
        ("--device cpu:1", "--device cpu:1: must be cpu, cuda or cuda:N"),
        ("--name ..", "--name ..: must be a plain folder name"),
        ("--value-rescaling True", "--value-rescaling True: needs --reward-clip None, not 1"),
        ("--replay-rows 90", "--replay-rows 90: too small; "),
        ("--burn-in 3000", "--burn-in, --unroll and --n-step: 3017 rows together; at most 2000"),
        ("dqn --core-size 8", "--core-size 8: has no effect with --core identity"),
        ("--config MINE", "--core-size 8: has no effect with --core identity"),
        ("--config FULL", "--epsilon-final 0.5: has no effect with --exploration per-actor"),
        ("dqn --torso flat --hidden 0 --norm False", "--norm False: has no effect with --torso"),
        ("--name \udce9t\udce9", r"error: '\udce9t\udce9': is not text"),
        ("drqn --loss squared", "--loss squared: has no effect with --head qr"),  # the preset's
        ("dqn --resume x", "--resume x: does not go with preset dqn"),
        ("--config y --resume x", "--config y: does not go with resume x"),
        ("--resume", "--resume: expected one argument"),
        ("--resume=nowhere", "--runs-dir"),  # the folder says where the run lies
        ("--config=nowhere", "error: nowhere: cannot be read (no such file)"),
        ("--config=", "error: .: cannot be read (no such file)"),
    ],
)
def test_words_that_do_not_fit_are_refused(words, says, refused, tmp_path) -> None:
    (tmp_path / "MINE").write_text("preset: dqn\ncore_size: 8\n")
    changed = override(preset("drqn"), {"exploration": "per-actor", "epsilon_final": 0.5})
    (tmp_path / "FULL").write_text(to_yaml(changed))
    words = re.sub("(MINE|FULL)", rf"{tmp_path}/\1", words)
    assert says in refused(*words.split())


def test_a_flag_without_effect_is_refused_also_on_resume(tmp_path) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(preset("dqn")))
    for words in ("--ray auto", "--core-size 512"):
        with pytest.raises(UsageError, match=f"^{words}: has no effect with --"):
            parse_train(["--resume", str(tmp_path), *words.split()])


@pytest.mark.parametrize(
    ("words", "name", "changes"),
    [
        ("", "drqn", {}),
        ("--reward-clip None", "drqn", dict(reward_clip=None)),
        ("r2d2 --trace_lambda 0.5 --double=False", "r2d2", dict(trace_lambda=0.5, double=False)),
        ("dqn --observe flicker", "dqn", dict(observe="flicker:0.5")),
        ("--config run/config.yaml --seed 3", "r2d2", dict(game="pong", core="gru", seed=3)),
        ("--config mine.yaml", "dqn", dict(game="pong", reward_clip=None)),
        ("--resume run --frames 77", "r2d2", dict(game="pong", core="gru", frames=77)),
    ],
)
def test_flags_override_presets_files_and_runs(words, name, changes, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    config, _ = parse_train("r2d2 --game pong --core gru".split())
    Path("run/config.yaml").write_text(to_yaml(config))
    Path("mine.yaml").write_text("preset: dqn\ngame: pong\nreward_clip: null\n")
    config, resume = parse_train(words.split())
    assert vars(config) == vars(preset(name)) | changes
    assert resume == (Path("run") if "--resume" in words else None)


def test_help_shows_explanation_range_and_the_presets_value_of_every_setting(capsys) -> None:
    with pytest.raises(SystemExit) as leaving:
        train.main(["r2d2", "--help"])
    assert leaving.value.code == 0
    shown = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    texts = ["Discount", "(>= 0 and < 1; default: 0.997)", ", ".join(PRESETS), *map(flag, FLAGS)]
    assert [text for text in texts if text not in shown] == []


def test_help_into_a_pipe_that_nobody_reads_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "train.py", "--help"]
    done = subprocess.run(words, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_name_that_the_terminals_encoding_lacks_is_printed_all_the_same(monkeypatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="iso-8859-1"))
    exit_on_usage_error(lambda argv: print("runs/\u03bb"))([])
    assert written.getvalue() == b"runs/\\u03bb\n"


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (PermissionError(13, "Permission denied", "x"), 2, "error: x: Permission denied\n"),
        (UnicodeEncodeError("latin-1", "λ", 0, 1, "no"), 2, "error: 'latin-1' codec can't encode"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_errors_of_files_and_interruptions_are_one_line(error, status, says, capsys) -> None:
    @exit_on_usage_error
    def main(argv):
        raise error

    assert main([]) == status
    assert capsys.readouterr().err.startswith(says)
