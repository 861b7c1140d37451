"""The settings of a run: one flat, typed record. Each field has its range and its explanation."""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from agents.cores import has_state
from agents.fields import FORBID, Count, OneOf, Share, Whole, near
from agents.heads import has_td_loss
from agents.learner import LearnerSettings
from agents.networks import NetworkSettings
from agents.replay import ReplaySettings
from envs.families import check_env, is_atari
from envs.protocols import PROTOCOLS
from envs.screens import parse_screen
from experiment.settings.presets import PRESETS

T = TypeVar("T", bound="Settings")
MAX_BYTES = 65_536  # of a YAML file of settings; a run's config.yaml has 2 KB
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Episodes = Annotated[int, Field(ge=1, le=10_000)]
Folder = Annotated[Path, Field(strict=False)]  # a string in YAML
Folders = Annotated[tuple[Path, ...], Field(strict=False)]
Words = Annotated[tuple[str, ...], Field(strict=False)]
Game = Annotated[str, AfterValidator(check_env), Field(json_schema_extra={"aliases": ["--env"]})]
Screen = Annotated[str, AfterValidator(lambda word: str(parse_screen(word)))]
Positional = Field(json_schema_extra={"positional": True})  # a word without a flag


class UsageError(Exception):
    """Bad input from the user: one line, exit status 2.

    Not a ValueError: pydantic would wrap a ValueError from a validator.
    """


@contextlib.contextmanager
def named(source: object) -> Iterator[None]:
    """A UsageError in the block names the source of the settings first."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None


def flag(field: str) -> str:
    """`eval_frames` -> `--eval-frames`."""
    return "--" + field.replace("_", "-")


def file_name(game: str) -> str:
    """The game as a part of a file's name: ids of gymnasium contain slashes and colons."""
    return re.sub(r"[^\w.-]+", "-", game)


def like(pattern: str, words: str) -> Any:
    """Validates text against a regular expression; `words` explain it in the error."""
    return Field(pattern=f"^({pattern})$", json_schema_extra={"words": words})


@dataclass(frozen=True, config=FORBID)
class Settings:
    """Base of the records from flags or YAML. UsageError with flag and value on a wrong value."""

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_line(cls, data: Any, validate: Callable[[Any], Self]) -> Self:
        try:
            return validate(data)
        except ValidationError as error:
            raise UsageError(_sentence(error, cls)) from None


def _sentence(error: ValidationError, kind: type) -> str:
    """The first error of pydantic as `--flag value: reason`."""
    first = error.errors(include_url=False)[0]
    reason = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    if not first["loc"]:
        return reason
    name, value = str(first["loc"][0]), f"{first['input']!s:.60}"
    if first["input"] is None:
        reason = "null is not allowed here; leave the setting out"
    if first["type"] == "literal_error":
        reason += "." + near(value, re.findall(r"'([^']+)'", reason))
    if first["type"] == "unexpected_keyword_argument":
        return f"no setting is named {name[:60]!r}.{near(name, list(kind.__dataclass_fields__))}"
    if first["type"] in ("bool_parsing", "bool_type"):
        reason = "must be True or False"
    extra = getattr(kind.__pydantic_fields__.get(name), "json_schema_extra", None) or {}  # type: ignore[attr-defined]
    if first["type"] == "string_pattern_mismatch":
        reason = f"must be {extra['words']}"
    place = name if extra.get("positional") else flag(name)
    value = value if value.isprintable() else repr(value)
    return f"{place} {value}: {reason[0].lower()}{reason[1:]}"


@dataclass(frozen=True, config=FORBID)
class Config(Settings, NetworkSettings, ReplaySettings, LearnerSettings):
    """The run: its environments, its schedule and the machine, with the settings of all parts.

    A frame is one frame of the emulator. A step is one decision of the agent: 4 frames. A row is
    one step of one environment in the replay. A sample is one row that is trained once.
    """

    # --- the task
    preset: Annotated[str, OneOf(PRESETS), Positional] = "drqn"
    """Settings to start from; a flag overrides one of them."""
    game: Game = "breakout"
    """A one-player game of ale-py in snake case, such as space_invaders; or the id of a gymnasium
    environment with images and discrete actions, such as minigrid:MiniGrid-MemoryS7-v0
    (package:id), in which a step is one frame."""
    frames: Count = 10_000_000
    """Length of the run, in emulator frames."""
    seed: Seed = 1
    """Seed of all random numbers of the run."""
    name: Annotated[str, like(r"([^/.\x00-\x1f][^/\x00-\x1f]{0,199})?", "a plain folder name")] = ""
    """Name of the run's folder in --runs-dir. Empty: PRESET-GAME-sSEED."""
    runs_dir: Folder = Path("runs")
    """Folder that holds the runs."""
    protocol: Annotated[str, OneOf(PROTOCOLS)] = "v5"
    """v5 (sticky actions 0.25, minimal action set), machado18 (the same with all 18 actions) or
    dqn-2015 (no sticky actions, up to 29 initial no-ops; in training a lost life is terminal)."""
    observe: Screen = "full"
    """The agent's view of the screen: full, flicker:PROBABILITY that a frame is black,
    blackout:FRAMES in a row, delay:STEPS, blinkered:SHARE of the height, or noise:SIGMA in grey
    levels. A kind without a number has its default."""

    # --- acting
    num_envs: Annotated[int, Field(ge=1, le=1024)] = 32
    """Environments that are played side by side."""
    actors: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes on Ray that share the environments and send their rows to the learner
    (docs/scale.md). 0: the learner's own process plays, and Ray is not needed."""
    ray: Annotated[str, Field(json_schema_extra={"alone": "local"})] = ""
    """Ray cluster of the actors: auto or HOST:PORT joins one; empty or no value starts one here."""
    exploration: Literal["linear", "per-actor"] = "linear"
    """linear: one epsilon, which falls linearly. per-actor: a fixed one per environment (R2D2)."""
    epsilon_start: Share = 1.0
    """Probability of a random action at the start."""
    epsilon_final: Share = 0.01
    """Probability of a random action after --epsilon-frames."""
    epsilon_frames: Whole = 250_000
    """Frames over which epsilon falls."""

    samples_per_step: Annotated[float, Field(gt=0, le=1000)] = 4.0
    """Rows that are trained for each step of an environment."""

    # --- saving and watching
    checkpoint_frames: Count = 1_000_000
    """Frames between checkpoints."""
    eval_frames: Whole = 1_000_000
    """Frames between evaluations. 0: no evaluations."""
    eval_episodes: Episodes = 10
    """Whole episodes in an evaluation, the same number in each of up to 32 environments."""
    eval_epsilon: Share = 0.001
    """Probability of a random action in evaluations."""
    log_frames: Count = 20_000
    """Frames between rows of metrics.jsonl."""
    track: Literal["none", "local", "wandb", "all"] = "local"
    """Trackers of the metrics: local (a trackio page), wandb (offline without a key) or all."""

    # --- the machine
    threads: Whole = 0
    """CPU threads of batches and emulators; no bit depends on them. 0: one for each core."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16: mixed precision with fp32 weights. auto: bf16 where the hardware computes it."""
    device: Annotated[str, like(r"cpu|cuda(:\d{1,3})?", "cpu, cuda or cuda:N")] = "cpu"
    """cpu, cuda or cuda:N."""
    compile: bool = False
    """Run the loss of an update through torch.compile."""

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        """UsageError on settings that exclude each other."""
        rows, clip = self.burn_in + self.unroll + self.n_step, self.reward_clip
        if self.value_rescaling and clip is not None:
            raise UsageError(f"--value-rescaling True: needs --reward-clip None, not {clip:g}")
        if rows > 2000:
            raise UsageError(
                f"--burn-in, --unroll and --n-step: {rows} rows together; at most 2000"
            )
        if self.actors and self.num_envs % self.actors:
            raise UsageError(
                f"--actors {self.actors}: must divide --num-envs, which is {self.num_envs}"
            )
        return self


EPSILON = ("epsilon_start", "epsilon_final", "epsilon_frames")
# (settings, others, predicate): the settings have no effect where the predicate is true of the
# values of the others.
Rule = tuple[tuple[str, ...], tuple[str, ...], Callable[..., object]]
IDLE: tuple[Rule, ...] = (
    (EPSILON, ("exploration",), lambda x: x == "per-actor"),
    (("epsilon_start",), ("epsilon_frames",), lambda x: x == 0),
    (("epsilon_frames",), ("epsilon_start", "epsilon_final"), lambda x, y: x == y),
    (("importance_exponent", "priority_eta"), ("priority_exponent",), lambda x: x == 0),
    (("norm",), ("torso", "hidden", "head_hidden"), lambda x, y, z: x == "flat" and not (y or z)),
    (("importance_exponent",), ("batch_size",), lambda x: x == 1),  # the weight is always 1
    (("priority_eta",), ("unroll",), lambda x: x == 1),  # the greatest error is the mean error
    (("core_size", "burn_in", "update"), ("core",), lambda x: not has_state(x)),
    # One network selects and evaluates the action.
    (("double",), ("target_period", "average"), lambda x, y: not (x or y)),
    (("loss",), ("head",), lambda x: not has_td_loss(x)),
    (("center",), ("standardize",), bool),  # the mean of each pixel is subtracted anyway
    (("trace_lambda",), ("unroll", "n_step"), lambda x, y: x == y == 1),  # one row ahead anyway
    (("double", "target_period", "trace_lambda"), ("discount",), lambda x: x == 0),
    (("ray",), ("actors",), lambda x: x == 0),
    # Other environments have rules of their own.
    (("protocol",), ("game",), lambda x: not is_atari(x)),
    (("parts",), ("device",), lambda x: x != "cpu"),
    (("parts",), ("batch_size",), lambda x: x == 1),
    (("eval_episodes", "eval_epsilon"), ("eval_frames",), lambda x: x == 0),
)


def idle(record: Settings, setting: str, rules: Iterable[Rule] = IDLE) -> str:
    """The flags that leave a setting without effect, such as "--core identity"; else ""."""
    for settings, others, has_no_effect in rules:
        values = {other: getattr(record, other) for other in others}
        if setting in settings and has_no_effect(*values.values()):
            return " ".join(f"{flag(other)} {value}" for other, value in values.items())
    return ""


def without_effect(
    record: Settings, given: Iterable[str], rules: Iterable[Rule] = IDLE
) -> list[str]:
    """A line for each setting in `given` that has no effect, whatever its value."""
    return [
        f"{flag(name)} {getattr(record, name)}: has no effect with {others}"
        for name in given
        if (others := idle(record, name, rules))
    ]


def check_effect(record: Settings, given: Iterable[str], rules: Iterable[Rule] = IDLE) -> None:
    """UsageError on the first setting in `given` that has no effect, whatever its value."""
    if lines := without_effect(record, given, rules):
        raise UsageError(lines[0])


def preset(name: str) -> Config:
    """The settings of a preset. UsageError on an unknown name."""
    return Config(preset=name, **PRESETS.get(name, {}))


def override(settings: T, words: Mapping[str, Any]) -> T:
    """The settings, changed by the words of a command line. UsageError on the first wrong one."""
    return replace(settings, **{k: None if word == "None" else word for k, word in words.items()})


def to_dict(config: Config) -> dict[str, Any]:
    """The settings as plain values for YAML and JSON."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}


def differences(old: Config, new: Config) -> dict[str, str]:
    """The settings that differ: name -> `--flag old -> new`."""
    before, after = to_dict(old), to_dict(new)
    return {
        name: f"{flag(name)} {before[name]} -> {after[name]}"
        for name in before
        if before[name] != after[name]
    }


def of_this_version(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that this or an older version saved, by this version's names."""
    data = dict(saved)
    for old in ("hide_probability", "observe_parameter"):
        if (number := data.pop(old, None)) is not None:
            data["observe"] = f"{data.get('observe')}:{number}"
    if data.get("trace_lambda_updates") == 0:
        data.pop("trace_lambda_start", None)
    if len(data) > 40:  # written by a program, with every setting of its version
        data.setdefault("learning_rate_updates", 0)
        data.setdefault("standardize", False)
    # Off in every past result.
    off = {"munchausen": False, "trace_lambda_updates": 0}
    return {k: v for k, v in data.items() if k not in off or v != off[k]}


def from_dict(data: Mapping[str, Any], source: str) -> Config:
    """Settings from a mapping of YAML or JSON, over those of its preset; types must be exact.

    UsageError names the source. Settings of older versions load too, for results of past studies.
    """
    data = PRESETS.get(str(data.get("preset", "drqn")), {}) | of_this_version(data)
    with named(source):
        return TypeAdapter(Config).validate_json(json.dumps(data), strict=True)


def to_yaml(config: Config) -> str:
    """All settings as YAML, for `train.py --config`."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def load(path: Path) -> Config:
    """The settings in a YAML file. UsageError if they cannot be read or are wrong."""
    return from_dict(read_yaml(path), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, of JSON's types of values. UsageError if there is none."""
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise FileNotFoundError("no such file")
        with path.open("rb") as file:
            text = file.read(MAX_BYTES).decode()
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ValueError("aliases, with which a small file becomes huge, are not supported")
        data = yaml.safe_load(text)
        json.dumps(data, allow_nan=False)
    except Exception as error:  # PyYAML's constructors raise several types, such as IndexError
        raise UsageError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise UsageError(f"{path}: must hold settings, as NAME: VALUE")
    return data
