"""Command lines: from words to a record of settings; every error is one line, exit status 2."""

import argparse
import functools
import os
import re
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from agents.fields import FORBID, near
from experiment import IS_INSTALLED
from experiment.settings.config import (
    Config,
    Folder,
    Settings,
    T,
    UsageError,
    check_effect,
    differences,
    flag,
    load,
    override,
    preset,
)
from experiment.settings.presets import PRESETS

Main = Callable[[list[str]], int]


def exit_on_usage_error(main: Main) -> Main:
    """A decorator: an error in the user's input or files becomes one line and status 2."""

    @functools.wraps(main)
    def wrapped(argv: list[str]) -> int:
        if isinstance(sys.stdout, TextIOWrapper):
            # A character that the terminal's encoding lacks ends no run.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            try:
                return main(argv)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:  # the reader of our output has ended, such as head
            # Python itself writes to standard output once more, as it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            return 130
        except (UsageError, UnicodeError, OSError) as error:
            message = (
                f"{error.filename}: {error.strerror}"
                if isinstance(error, OSError) and error.filename
                else str(error)
            )
            # The user's words may contain line ends.
            print("error: " + r"\n".join(message.splitlines()), file=sys.stderr)
            return 2

    return wrapped


def command(program: str) -> str:
    """The command for train, evaluate or compare: `recall train` in an installed copy."""
    return f"recall {program}" if IS_INSTALLED else f"python {program}.py"


# JSON schema's limits and types, as the help shows them.
UNLIMITED = 10**15
LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
TYPES = {
    "integer": "INT",
    "number": "NUMBER",
    "boolean": "True|False",
    "string": "NAME",
    "path": "PATH",
    "array": "VALUE",
}


def _parser(prog: str, default: Settings, description: str) -> argparse.ArgumentParser:
    """A flag for each field, in groups of the record's classes; help: text, range, default."""
    kind = type(default)
    fields = TypeAdapter(kind).json_schema()["properties"]
    words = [
        name.upper() if getattr(default, name) is None else f"[{name.upper()}]"
        for name, field in fields.items()
        if field.get("positional")
    ]
    parser = argparse.ArgumentParser(
        usage=" ".join([prog, *words, "[--SETTING VALUE ...]"]),
        description=description,
        allow_abbrev=False,
        exit_on_error=False,
        argument_default=argparse.SUPPRESS,
    )
    for owner in filter(is_dataclass, kind.__mro__):
        group = parser.add_argument_group((owner.__doc__ or "").partition("\n")[0].rstrip("."))
        for name in owner.__annotations__:
            field, about = fields[name], owner.__pydantic_fields__[name].description  # type: ignore[attr-defined]
            variants, many = field.get("anyOf", [field]), field.get("type") == "array"
            limits = " and ".join(
                f"{sign} {v[key]:g}"
                for v in variants
                for key, sign in LIMITS.items()
                if v.get(key, UNLIMITED) < UNLIMITED
            )
            limits += "; " if limits else ""
            start = getattr(default, name)
            text = f"{about} ({limits}default: {'empty' if start in ('', ()) else start})"
            is_word, type_name = (
                field.get("positional"),
                variants[0].get("format", variants[0]["type"]),
            )
            # The value of a flag that stands alone.
            alone = field.get("alone", "True" if type_name == "boolean" else None)
            values = "|".join(variants[0].get("enum", [TYPES[type_name]]))
            group.add_argument(
                *([name] if is_word else [flag(name), *field.get("aliases", [])]),
                nargs=("*" if is_word else "+") if many else "?" if is_word or alone else None,
                const=alone,
                metavar=name.upper() if is_word else values,
                help=text.replace("%", "%%"),
            )
    return parser


def given(prog: str, argv: list[str], default: Settings, description: str = "") -> dict[str, Any]:
    """The fields that the command line names, as words that the record has yet to validate.

    UsageError on an unknown flag, and on a flag that comes twice. --help exits with status 0.
    """
    parser = _parser(prog, default, description)
    argv = [re.sub("^--[^=]+", lambda name: name[0].replace("_", "-"), word) for word in argv]
    if bad := [word for word in argv if re.search("[\ud800-\udfff]", word)]:
        raise UsageError(f"{bad[0]!a}: is not text in the encoding of this terminal")
    names = [word.partition("=")[0] for word in argv if word.startswith("--")]
    flags = [parser._option_string_actions.get(name, name) for name in names]  # also by alias
    if twice := [name for name, f in zip(names, flags, strict=True) if flags.count(f) > 1]:
        raise UsageError(f"{' and '.join(dict.fromkeys(twice))}: given twice")
    try:
        values, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UsageError(str(error).removeprefix("argument ")) from None
    if rest:
        name = rest[0].partition("=")[0]
        raise UsageError(
            f"unknown flag {name}.{near(name, parser._option_string_actions)} See --help."
            if name.startswith("-")
            else f"{name}: not expected"
        )
    return vars(values)


def parse(prog: str, argv: list[str], default: T, description: str = "") -> T:
    """The record `default`, changed by its flags. UsageError on the first wrong one."""
    return override(default, given(prog, argv, default, description))


@dataclass(frozen=True, config=FORBID)
class TrainCommand(Config):
    """Sources of the settings."""

    resume: Folder | None = None
    """In place of PRESET: go on with the run in this folder, from its last checkpoint."""
    config: Folder | None = None
    """In place of PRESET: the settings in this YAML file, such as a run's config.yaml."""


def parse_train(argv: list[str]) -> tuple[Config, Path | None]:
    """[PRESET | --resume FOLDER | --config FILE] flags -> (settings, folder to resume or None).

    UsageError on wrong flags, on flags without effect, and on settings of FILE that differ from
    their preset and have no effect.
    """
    name = argv[0] if argv and argv[0] in PRESETS else "drqn"
    flags = given(
        command("train"),
        argv,
        TrainCommand(**vars(preset(name))),
        f"Train a Q-learning agent on an Atari game. PRESET is one of {', '.join(PRESETS)}.",
    )
    for one, other in pairwise(name for name in ("preset", "resume", "config") if name in flags):
        raise UsageError(f"{flag(other)} {flags[other]}: does not go with {one} {flags[one]}")
    for name in flags.keys() & {"name", "runs_dir"} if "resume" in flags else ():
        raise UsageError(f"{flag(name)} {flags[name]}: cannot change with --resume")
    folder, file = (Path(flags.pop(k)) if k in flags else None for k in ("resume", "config"))
    path = folder / "config.yaml" if folder else file
    start = load(path) if path else preset(flags.get("preset", "drqn"))
    config = override(start, flags)
    check_effect(config, [*flags, *(differences(preset(start.preset), start) if file else ())])
    return config, folder
