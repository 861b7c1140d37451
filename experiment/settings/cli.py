"""Command lines: from words to a record of settings; every error is one line, with exit status
2."""

import argparse
import functools
import os
import re
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from agents.fields import FORBID, near
from experiment.settings.config import (
    Config,
    Folder,
    Settings,
    UsageError,
    check_effect,
    flag,
    from_dict,
    load,
    override,
    preset,
    read_yaml,
)
from experiment.settings.presets import PRESETS

T = TypeVar("T", bound=Settings)
Main = Callable[[list[str]], int]


def exit_on_usage_error(main: Main) -> Main:
    """The one door for errors: what is wrong with the user's input or files becomes one line and
    status 2."""

    @functools.wraps(main)
    def wrapped(argv: list[str]) -> int:
        if isinstance(sys.stdout, TextIOWrapper):
            # No encoding ends a run whose name it lacks.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            try:
                return main(argv)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:  # the reader of our output has left, such as head
            # Else Python complains as it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except (UsageError, UnicodeError) as error:
            message = str(error)
        except OSError as error:
            message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            return 130
        # The user's words may have lines.
        print("error: " + r"\n".join(message.splitlines()), file=sys.stderr)
        return 2

    return wrapped


def command(program: str) -> str:
    """The command that starts train, evaluate or compare: an installed copy has one command for
    all."""
    # In a checkout it lies deeper: recall/__init__.py.
    installed = Path(__file__).resolve().parents[2] / "face.py"
    return f"recall {program}" if installed.exists() else f"python {program}.py"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


def _parser(prog: str, default: Settings, description: str) -> _Parser:
    """A flag for each field of the record, in the groups of its classes; the help shows
    explanation, range, default."""
    kind = type(default)
    fields = TypeAdapter(kind).json_schema()["properties"]
    words = [k.upper() for k, field in fields.items() if field.get("positional")]
    usage = " ".join([prog, *words, "[--SETTING VALUE ...]"])
    parser = _Parser(
        usage=usage, description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    for owner in filter(is_dataclass, kind.__mro__):
        group = parser.add_argument_group((owner.__doc__ or "").partition("\n")[0].rstrip("."))
        for name in owner.__annotations__:
            field, about = fields[name], owner.__pydantic_fields__[name].description  # type: ignore[attr-defined]
            variants, many = field.get("anyOf", [field]), field.get("type") == "array"
            limits = [
                f"{sign} {v[key]:g}" for v in variants for key, sign in LIMITS.items() if key in v
            ]
            limit = f"{' and '.join(limits)}; " if limits else ""
            text = f"{about} ({limit}default: {getattr(default, name)})".replace("%", "%%")
            if field.get("positional"):
                group.add_argument(
                    name, metavar=name.upper(), nargs="*" if many else "?", help=text
                )
            else:
                metavar = "|".join(variants[0].get("enum", [TYPES[variants[0]["type"]]]))
                alone = field.get("alone", "True" if variants[0].get("type") == "boolean" else None)
                takes: dict[str, Any] = (
                    {"nargs": "?", "const": alone} if alone else {"nargs": "+" if many else None}
                )
                names = [flag(name), *field.get("aliases", [])]
                group.add_argument(*names, dest=name, **takes, metavar=metavar, help=text)
    return parser


# of JSON schema
LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
TYPES = {
    "integer": "INT",
    "number": "NUMBER",
    "boolean": "True|False",
    "string": "NAME",
    "array": "VALUE",
}


def given(prog: str, argv: list[str], default: Settings, description: str = "") -> dict[str, Any]:
    """The fields that the command line names, as words; the record validates them. --help leaves
    with status 0."""
    parser = _parser(prog, default, description)
    argv = [re.sub("^--[^=]+", lambda name: name[0].replace("_", "-"), word) for word in argv]
    names = [word.partition("=")[0] for word in argv if word.startswith("--")]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{twice[0]}: given twice")
    values, rest = parser.parse_known_args(argv)
    for name in (word.partition("=")[0] for word in rest):
        hint = f"unknown flag {name}.{near(name, parser._option_string_actions)} See --help."
        raise UsageError(hint if name.startswith("-") else f"{name}: not expected")
    return vars(values)


def parse(prog: str, argv: list[str], default: T, description: str = "") -> T:
    """A record of settings from its flags, over a default. UsageError on the first that is
    wrong."""
    return override(default, given(prog, argv, default, description))


@dataclass(frozen=True, config=FORBID)
class TrainCommand(Config):
    """Where the settings come from."""

    resume: Folder | None = None
    """Go on with the run in this folder, from its last checkpoint, in place of PRESET."""
    config: Folder | None = None
    """Start from the settings in this YAML file, such as a run's config.yaml, in place of
    PRESET."""


def parse_train(argv: list[str]) -> tuple[Config, Path | None]:
    """[PRESET | --resume FOLDER | --config FILE] flags -> (settings, folder to resume or None)."""
    name = argv[0] if argv and argv[0] in PRESETS else "drqn"
    about = f"Train a Q-learning agent on an Atari game. PRESET is one of {', '.join(PRESETS)}."
    flags = given(command("train"), argv, TrainCommand(**vars(preset(name))), about)
    sources = [name for name in ("preset", "resume", "config") if name in flags]
    if len(sources) > 1:
        raise UsageError(
            f"{flag(sources[1])} {flags[sources[1]]}: takes the place of {sources[0]} "
            f"{flags[sources[0]]}"
        )
    resume, file = flags.pop("resume", None), flags.pop("config", None)
    if resume:
        for name in flags.keys() & {"name", "runs_dir"}:
            raise UsageError(f"{flag(name)} {flags[name]}: cannot change with --resume")
        return override(load(Path(resume) / "config.yaml"), flags), Path(resume)
    if file is None:
        config, chosen = override(preset(flags.get("preset", "drqn")), flags), flags.keys()
    else:
        data = read_yaml(Path(file))
        config = override(from_dict(data, file), flags)
        # The file of a run has every setting; in a file by hand each one was chosen.
        chosen = flags.keys() | (data.keys() if len(data) < len(vars(config)) else set())
    check_effect(config, chosen)
    return config, resume
