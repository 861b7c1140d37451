"""Command lines: presets, flags, and errors in one clear line with exit status 2."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import tyro

from experiment import config as settings
from experiment.config import PRESETS, Config, UsageError, near

FLAG_STYLE = (tyro.conf.FlagConversionOff,)


T = TypeVar("T")


def exit_on_usage_error(main: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
    """Turn UsageError into one line on standard error and status 2."""

    @functools.wraps(main)
    def wrapped(argv: list[str]) -> int:
        try:
            return main(argv)
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return wrapped


def _fail(message: str) -> NoReturn:
    raise UsageError(message)


def check_flags(argv: list[str], known: list[str]) -> None:
    """UsageError on a flag that does not exist, with the near miss; on a flag without its value."""
    for i, word in enumerate(argv):
        if not word.startswith("--") or word == "--help":
            continue
        name, equals, _ = word.partition("=")
        name = name.replace("_", "-")
        if name not in known:
            _fail(f"unknown flag {name}.{near(name, known)} See --help.")
        following = argv[i + 1] if i + 1 < len(argv) else "--"
        if not equals and following.startswith("--"):
            _fail(f"{name}: needs a value")


def parse_fields(prog: str, kind: type, argv: list[str], default: object, description: str) -> object:
    """tyro's parse of a flat dataclass; its complaints become one line."""
    known = [settings.flag(name) for name in kind.__dataclass_fields__]
    check_flags(argv, known)
    try:
        return tyro.cli(
            kind,
            prog=prog,
            args=argv,
            default=default,
            description=description,
            config=FLAG_STYLE,
            console_outputs=False,
        )
    except SystemExit as error:
        if error.code == 0:  # --help
            tyro.cli(kind, prog=prog, args=argv, default=default, description=description, config=FLAG_STYLE)
        _fail(_complaint(kind, argv))


def _complaint(kind: type, argv: list[str]) -> str:
    """The first flag whose value tyro refuses, in one line."""
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for i, word in enumerate(words):
        if word.startswith("--"):
            field = word[2:].replace("-", "_")
            value = words[i + 1] if i + 1 < len(words) else ""
            try:
                tyro.cli(kind, args=[word, value], default=kind(), config=FLAG_STYLE, console_outputs=False)
            except SystemExit:
                expected = kind.__annotations__[field]
                choices = [c.strip("'\" ") for c in str(expected).removeprefix("Literal[").rstrip("]").split(",")]
                hint = near(value, choices) if "Literal" in str(expected) else ""
                return f"{settings.flag(field)} {value}: expected {_readable(str(expected))}.{hint}"
    return f"cannot understand: {' '.join(argv)}. See --help."


def _readable(annotation: str) -> str:
    names = {
        "int": "a whole number",
        "float": "a number",
        "bool": "True or False",
        "CoreName": "identity, rnn, lstm1997, lstm or gru",
    }
    base = annotation.removesuffix(" | None")
    if base.startswith("Literal["):
        return "one of " + base.removeprefix("Literal[").rstrip("]").replace('"', "").replace("'", "")
    return names.get(base, base) + (" or None" if base != annotation else "")


def parse_train(argv: list[str]) -> tuple[Config | None, str, Path | None]:
    """[PRESET] flags, or --resume FOLDER -> (settings or None, preset name, folder to resume or None)."""
    argv = list(argv)
    resume: Path | None = None
    for i, word in enumerate(argv):
        if word == "--resume" or word.startswith("--resume="):
            value = word.partition("=")[2] or (argv[i + 1] if i + 1 < len(argv) else "")
            if not value:
                _fail("--resume: needs the folder of a run, such as runs/NAME")
            resume = Path(value)
            del argv[i : i + (1 if "=" in word else 2)]
            break
    name = "drqn"
    given = bool(argv) and not argv[0].startswith("-")
    if given:
        name = argv.pop(0)
    default = settings.preset(name)
    description = (
        f"Train a Q-learning agent on an Atari game. PRESET is one of {', '.join(PRESETS)} (default drqn) and comes "
        "first. `--resume runs/NAME` goes on with a run from its last checkpoint."
    )
    if resume is not None:
        if given:
            _fail(f"--resume {resume}: the run has its preset already; leave {name!r} out")
        stored, name = (
            settings.load(resume / "config.yaml")
            if resume.is_dir()
            else _fail(f"--resume {resume}: no such run folder")
        )
        changed = parse_fields("train.py --resume", Config, argv, stored, description) if argv else stored
        assert isinstance(changed, Config)
        return changed, name, resume
    parsed = parse_fields(f"train.py {name}", Config, argv, default, description)
    assert isinstance(parsed, Config)
    return parsed, name, None


def parse_evaluate(argv: list[str], kind: type[T]) -> tuple[Path, T]:
    """FOLDER and flags -> (folder of the run, settings)."""
    argv = list(argv)
    description = "Score a trained agent. The folder of its run comes first: python evaluate.py runs/NAME"
    folder = Path(argv.pop(0)) if argv and not argv[0].startswith("-") else None
    wanted = parse_fields("evaluate.py RUN", kind, argv, kind(), description)
    if folder is None:
        _fail("evaluate.py needs the folder of a run, such as runs/NAME")
    assert isinstance(wanted, kind)
    return folder, wanted
