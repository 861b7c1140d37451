"""Settings: ranges, YAML, settings without effect."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from experiment.settings.config import (
    IDLE,
    Config,
    UsageError,
    check_effect,
    flag,
    from_dict,
    load,
    override,
    preset,
    save,
)
from experiment.settings.presets import PRESETS

ROOT = Path(__file__).parents[3]
SCHEMA: dict[str, dict[str, Any]] = TypeAdapter(Config).json_schema()["properties"]


def candidates(name: str) -> list[Any]:
    """A few values that the setting may take."""
    part = SCHEMA[name].get("anyOf", [SCHEMA[name]])[0]
    names = {
        "core": ["identity", "lstm"],
        "head": ["mean", "qr"],
        "loss": ["squared", "huber"],
        "ray": ["", "local"],
        "game": ["pong", "recall/Recall-v0"],
        "protocol": ["v5", "dqn-2015"],
        "device": ["cpu", "cuda"],
    }
    if name in names or "enum" in part or part["type"] == "boolean":
        return names.get(name, part.get("enum", [True, False]))
    low = part.get("minimum", 1)
    none = [None] if "anyOf" in SCHEMA[name] else []
    return [
        low,
        low + 1 if part["type"] == "integer" else (low + part.get("maximum", 1)) / 2,
        *none,
    ]


@pytest.mark.parametrize(
    ("settings", "others", "without_effect"),
    IDLE,
    ids=[", ".join(row[0]) + "-" + ", ".join(row[1]) for row in IDLE],
)
def test_a_setting_without_effect_is_refused_and_the_other_setting_is_named(
    settings: tuple[str, ...], others: tuple[str, ...], without_effect: Any
) -> None:
    values = itertools.product(*map(candidates, others))
    cause = next(
        dict(zip(others, chosen, strict=True)) for chosen in values if without_effect(*chosen)
    )
    for name in settings:
        # No other rule holds.
        with_effect = {"target_period": 5, "priority_exponent": 0.5, "trace_lambda_updates": 7}
        start = override(preset("drqn"), with_effect | cause)
        value = next(
            v
            for v in candidates(name)
            if v not in (getattr(start, name), getattr(preset("drqn"), name))
        )
        given = override(start, {name: value})
        says = f"^{flag(name)} {getattr(given, name)}: has no effect with {flag(others[0])} "
        with pytest.raises(UsageError, match=says):
            check_effect(given, [name])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_may_be_spelled_out(name: str) -> None:
    config = preset(name)
    assert {k: getattr(config, k) for k in PRESETS[name]} == PRESETS[name]
    check_effect(config, config.__dataclass_fields__)


@pytest.mark.parametrize("name", PRESETS)
def test_settings_survive_yaml(name: str, tmp_path: Path) -> None:
    config = override(
        preset(name), {"game": "pong", "runs_dir": "some where/λ", "observe": "delay:2"}
    )
    save(config, tmp_path / "config.yaml")  # plain values only: safe_load reads no others
    assert load(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("frames: many", "--frames many: must be a valid integer"),
        ("frames: '7'", "--frames 7: must be a valid integer"),
        ("frames: true", "--frames True: must be a valid integer"),
        ("double: 1", "--double 1: must be a valid boolean"),
        ("game: [pong]", "--game ['pong']: must be a valid string"),
        ("learning_rate: .nan", "cannot be read"),
        ("gam: pong", "no setting is named 'gam'. Did you mean game?"),
        ("preset: [1]", "preset [1]: "),
        ("preset: drqnn", "Did you mean drqn?"),
        ("- pong", "must hold settings"),
        ("", "must hold settings"),
        ("1: 2", "must hold settings"),
        ("game: 2020-01-01", "cannot be read"),
        ("{", "cannot be read"),
        ("[" * 5000, "cannot be read"),
        ("frames: 0x" + "f" * 9000, "cannot be read"),
    ],
)
def test_a_wrong_yaml_is_one_line_that_names_the_file_and_the_setting(
    text: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"game: \xff\xfe")
    for path in (tmp_path / "mine.yaml", tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="cannot be read"):
            load(path)


def test_settings_of_past_results_load_and_their_screen_is_one_word() -> None:
    paths = list(ROOT.glob("studies/*/results/*.json"))
    assert paths
    screens = set()
    for path in paths:
        result = json.loads(path.read_text(encoding="utf-8"))
        config = from_dict(result["settings"] | {"preset": result["preset"]}, str(path))
        assert config.seed == result["seed"]
        screens.add(config.observe)
    assert screens == {"full", "flicker:0.5"}
