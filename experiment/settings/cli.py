"""Command lines: presets, flags, and errors in one clear line with exit status 2."""

import contextlib
import dataclasses
import functools
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import tyro

from experiment.settings import config as settings
from experiment.settings.config import Config, UsageError, near
from experiment.settings.presets import PRESETS

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
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            if not {"--help", "-h"} & set(argv):
                raise
            # Who read the help, such as head, has left. Without this Python complains when it flushes at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    return wrapped


def _fail(message: str) -> NoReturn:
    raise UsageError(message)


def check_flags(argv: list[str], known: list[str]) -> None:
    """UsageError on a flag that does not exist, with the near miss; without its value; or given twice."""
    given = set()
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
        if name in given:
            _fail(f"{name}: given twice")
        given.add(name)


def _parse(prog: str, kind: type[T], argv: list[str], default: T, description: str) -> T:
    return tyro.cli(kind, prog=prog, args=argv, default=default, description=description, config=FLAG_STYLE)


def parse_fields(prog: str, kind: type[T], argv: list[str], default: T, description: str) -> T:
    """tyro's parse of a flat dataclass; its complaints become one line. --help prints and leaves with status 0."""
    if "--help" in argv or "-h" in argv:
        _parse(prog, kind, ["--help"], default, description)
    check_flags(argv, [settings.flag(name) for name in get_type_hints(kind)])
    silence = io.StringIO()
    try:
        with contextlib.redirect_stderr(silence), contextlib.redirect_stdout(silence):
            return _parse(prog, kind, argv, default, description)
    except SystemExit:
        pass
    _fail(_complaint(kind, argv, default))


def _complaint(kind: type, argv: list[str], default: object) -> str:
    """The first flag whose value is refused, in one line."""
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    word = ""
    for value in words:
        if value.startswith("--"):
            word = value
        elif word:
            field = word[2:].replace("-", "_")
            silence = io.StringIO()
            try:
                with contextlib.redirect_stderr(silence), contextlib.redirect_stdout(silence):
                    _parse("", kind, [word, value], default, "")
            except SystemExit:
                hint = get_type_hints(kind)[field]
                choices = [str(choice) for choice in get_args(hint)] if get_origin(hint) is Literal else []
                return f"{settings.flag(field)} {value}: expected {_readable(hint)}.{near(value, choices)}"
            if get_origin(get_type_hints(kind)[field]) is not tuple:
                word = ""  # it takes no more
    stray = [word for i, word in enumerate(argv) if not word.startswith("--") and not argv[i - 1].startswith("--")]
    first = " The preset comes first." if stray and stray[0] in PRESETS else ""
    return f"cannot understand {' '.join(stray or argv)!r}.{first} See --help."


def _readable(hint: Any) -> str:
    """A type as a user would say it."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        hint = get_args(hint)[0]  # each of its values
    names = {int: "a whole number", float: "a number", bool: "True or False", type(None): "None"}
    return " or ".join(names.get(kind, "text") for kind in (get_args(hint) or (hint,)))


def _show_train_help(default: Config, name: str, description: str) -> None:
    """Print the settings and what the command line takes besides them. Leaves with status 0."""
    presets = f"Where the settings start from: {', '.join(PRESETS)}. Comes first."
    about_preset = tyro.conf.arg(metavar="[PRESET]", help=presets)
    about_resume = tyro.conf.arg(metavar="FOLDER", help="Go on with the run in this folder, in place of a PRESET.")
    kind = dataclasses.make_dataclass(
        "Train",
        [
            ("preset", Annotated[tyro.conf.Positional[str], about_preset], name),
            ("resume", Annotated[Path | None, about_resume], None),
        ],
        bases=(Config,),
        frozen=True,
    )
    _parse("train.py", kind, ["--help"], kind(**vars(default)), description)


def parse_train(argv: list[str]) -> tuple[Config, str, Path | None]:
    """[PRESET] flags, or --resume FOLDER -> (settings, preset name, folder to resume or None)."""
    argv = list(argv)
    resume: Path | None = None
    for i, word in enumerate(argv):
        if word == "--resume" or word.startswith("--resume="):
            following = argv[i + 1] if i + 1 < len(argv) else ""
            value = word.partition("=")[2] if "=" in word else following
            if not value or value.startswith("--"):
                _fail("--resume: needs the folder of a run, such as runs/NAME")
            resume = Path(value)
            del argv[i : i + (1 if "=" in word else 2)]
            break
    if any(word.partition("=")[0] == "--resume" for word in argv):
        _fail("--resume: given twice")
    name = "drqn"
    given = bool(argv) and not argv[0].startswith("-")
    if given:
        name = argv.pop(0)
    default = settings.preset(name)
    description = (
        f"Train a Q-learning agent on an Atari game. PRESET is one of {', '.join(PRESETS)} (default drqn) and comes "
        "first. `--resume runs/NAME` goes on with a run from its last checkpoint."
    )
    if "--help" in argv or "-h" in argv:
        _show_train_help(default, name, description)
    if resume is not None:
        if given:
            _fail(f"--resume {resume}: the run has its preset already; leave {name!r} out")
        if not resume.is_dir():
            _fail(f"--resume {resume}: no such run folder")
        for word in argv:
            if word.partition("=")[0].replace("_", "-") in ("--name", "--runs-dir"):
                _fail(f"--resume {resume}: the folder says both name and place; leave {word} out")
        stored, name = settings.load(resume / "config.yaml")
        return parse_fields("train.py --resume", Config, argv, stored, description), name, resume
    return parse_fields(f"train.py {name}", Config, argv, default, description), name, None


def parse_evaluate(
    argv: list[str], kind: type[T], prog: str = "evaluate.py", what: str = "Score a trained agent"
) -> tuple[list[Path], T]:
    """FOLDER ... and flags -> (folders of the runs, settings)."""
    argv, folders = list(argv), []
    description = f"{what}. The folder of its run comes first: python {prog} runs/NAME"
    while argv and not argv[0].startswith("-"):
        folders.append(Path(argv.pop(0)))
    wanted = parse_fields(f"{prog} RUN", kind, argv, kind(), description)
    if not folders:
        _fail(f"{prog} needs the folder of a run, such as runs/NAME")
    return folders, wanted
