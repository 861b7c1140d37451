"""Settings: ranges, YAML, settings without effect."""

import itertools
from typing import Any

import pytest
from pydantic import TypeAdapter

from experiment.settings import config as settings
from experiment.settings.config import IDLE, Config, UsageError, flag, override, preset
from experiment.settings.presets import PRESETS

SCHEMA: dict[str, dict[str, Any]] = TypeAdapter(Config).json_schema()["properties"]


def candidates(name: str) -> list[Any]:
    """A few values that the setting may take."""
    part = SCHEMA[name].get("anyOf", [SCHEMA[name]])[0]
    names = dict(core=["identity", "lstm"], head=["mean", "qr"], loss=["squared", "huber"])
    names |= dict(ray=["", "local"], device=["cpu", "cuda"], protocol=["v5", "dqn-2015"])
    names |= dict(game=["pong", "recall/Recall-v0"], torso=["nature", "flat"])
    if name in names or "enum" in part or part["type"] == "boolean":
        return names.get(name, part.get("enum", [True, False]))
    low = part.get("minimum", 1)
    high = low + 1 if part["type"] == "integer" else (low + part.get("maximum", 1)) / 2
    return [low, high, *([None] if "anyOf" in SCHEMA[name] else [])]


@pytest.mark.parametrize(
    ("names", "others", "without_effect"),
    IDLE,
    ids=[", ".join(row[0]) + "-" + ", ".join(row[1]) for row in IDLE],
)
def test_a_setting_without_effect_is_refused_with_the_cause(names, others, without_effect) -> None:
    causes = itertools.product(*map(candidates, others))
    cause = next(values for values in causes if without_effect(*values))
    # With these no other rule holds.
    start = dict(target_period=5, priority_exponent=0.5)
    start = override(preset("drqn"), start | dict(zip(others, cause, strict=True)))
    for name in names:
        present = getattr(start, name), getattr(preset("drqn"), name)
        for value in (next(v for v in candidates(name) if v not in present), present[1]):
            chosen = override(start, {name: value})
            says = f"^{flag(name)} {getattr(chosen, name)}: has no effect with {flag(others[0])} "
            with pytest.raises(UsageError, match=says):
                settings.check_effect(chosen, [name])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_survives_yaml(name, tmp_path) -> None:
    config = preset(name)
    assert vars(config).items() >= PRESETS[name].items()
    config = override(config, dict(game="pong", runs_dir="some where/λ", observe="delay:2"))
    path = tmp_path / "config.yaml"
    path.write_text(settings.to_yaml(config), "utf-8")  # plain values only: load reads no others
    assert settings.load(path) == config


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("frames: many", "--frames many: must be a valid integer"),
        ("frames: null", "--frames None: null is not allowed here; leave the setting out"),
        ("frames: '7'", "--frames 7: must be a valid integer"),
        ("frames: true", "--frames True: must be a valid integer"),
        ("double: 1", "--double 1: must be True or False"),
        ("game: [pong]", "--game ['pong']: must be a valid string"),
        ("learning_rate: .nan", "cannot be read"),
        ("gam: pong", "no setting is named 'gam'. Did you mean game?"),
        ("preset: [1]", "preset [1]: "),
        ("preset: drqnn", "Did you mean drqn?"),
        ("- pong", "must hold settings"),
        ("", "must hold settings"),
        ("1: 2", "must hold settings"),
        ("{", "cannot be read"),
        ("frames: 0x" + "f" * 9000, "cannot be read"),
        (b"game: \xff\xfe", "cannot be read"),  # no text
        ("\x00", "cannot be read"),
        ("game: 2024-99-99", "cannot be read"),  # a date
        ("game: [" * 5000, "cannot be read"),
        (
            "a: &a [x]\ngame: *a",
            "aliases, with which a small file becomes huge, are not",
        ),  # lists of lists become huge
        ("!!python/object/apply:os.system ['touch /tmp/owned']", "cannot be read"),
        ("preset: ../../x", "must be one of"),
        (None, "cannot be read"),  # no file
    ],
)
def test_a_wrong_yaml_is_one_line_that_names_the_file_and_the_setting(text, says, tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as caught:
        settings.load(path)
    (line,) = str(caught.value).splitlines()
    assert len(line) < 500
    assert line.startswith(f"{path}: ")
    assert says in line


def test_the_settings_of_an_older_run_keep_its_constant_learning_rate() -> None:
    old = settings.to_dict(preset("dqn"))
    del old["learning_rate_updates"]
    constant = override(preset("dqn"), {"learning_rate_updates": 0})
    annealing = {"trace_lambda_start": 0.9, "trace_lambda_updates": 0}
    for saved in (old, old | annealing):
        assert settings.from_dict(saved, "old") == constant
    with pytest.raises(UsageError, match="no setting is named 'trace_lambda_"):
        settings.from_dict(old | annealing | {"trace_lambda_updates": 7}, "old")  # not the same
    assert settings.from_dict({"preset": "dqn", "optimizer": "adam"}, "mine") == preset("dqn")
