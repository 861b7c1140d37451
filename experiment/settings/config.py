"""The settings of a run: one flat, typed record."""

import dataclasses
import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from experiment.settings.presets import PRESETS

MAX_BYTES = 65_536  # of a config.yaml; ours take 2 KB
MAX_COUNT = 10**15  # of anything counted
CoreName = Literal["identity", "rnn", "lstm1997", "lstm", "gru"]


class UsageError(ValueError):
    """Bad input from the user: one clear line, exit status 2."""


@dataclass(frozen=True)
class Config:
    """Train a Q-learning agent on an Atari game.

    A frame is one emulator frame; a step is one decision of the agent, 4 frames; a row is one env's step in the
    replay; a sample is one trained row.
    """

    # --- what is trained
    game: str = "breakout"
    """Any game that ale-py bundles, in snake case, such as space_invaders."""
    frames: int = 10_000_000
    """Length of the run, in emulator frames."""
    seed: int = 1
    """Everything random in the run derives from it."""
    name: str = ""
    """Folder of the run below --runs-dir. Default: PRESET-GAME-sSEED."""
    runs_dir: Path = Path("runs")
    """Where runs are kept."""
    protocol: str = "v5"
    """v5 (sticky actions 0.25, minimal action set), machado18 (the same with all 18 actions) or dqn-2015 (no
    sticky actions, 30 no-ops, a lost life is terminal in training)."""
    observe: str = "full"
    """What the agent sees of the screen: full, flicker, blackout, delay, blinkered or noise."""
    hide_probability: float | None = None
    """With --observe flicker: probability that a frame is hidden. The same as --observe-parameter."""
    observe_parameter: float | None = None
    """flicker: probability; blackout: frames hidden at a time; delay: steps; blinkered: share of the height seen;
    noise: standard deviation in grey levels. Default: that of the kind."""

    # --- the network
    frame_stack: int = 1
    """Images the network sees at once, each 4 frames after the last."""
    torso: Literal["nature", "dqn-2013", "half", "lean"] = "nature"
    """Convolutions: nature (three, Mnih et al. 2015), dqn-2013 (two, Mnih et al. 2013), half (IMPALA's
    residual stages at half the resolution; twice the work of nature) or lean (half with fewer layers;
    about the work of nature)."""
    hidden: int = 512
    """Width of the fully connected layer after the convolutions, in units. 0: none."""
    core: CoreName = "lstm"
    """identity (feed-forward), rnn (Elman), lstm1997 (no forget gate), lstm or gru."""
    core_size: int = 256
    """Units of the recurrent core."""
    head: Literal["mean", "qr", "hl-gauss"] = "mean"
    """What is learned of the return: mean (trained with --loss), qr (32 quantiles; quantile Huber loss) or hl-gauss (a
    histogram of the mean, 51 bins from -10 to 10; cross-entropy)."""
    head_hidden: int = 0
    """Width of a fully connected layer in each stream of the head, in units. 0: none."""
    dueling: bool = False
    """Separate value and advantage streams."""
    norm: bool = True
    """LayerNorm after each convolution and fully connected layer."""
    center: bool = True
    """Subtract from each image its median grey, the background."""
    last_action_reward: bool = True
    """The core also sees the last action and the last clipped reward."""

    # --- acting
    num_envs: int = 32
    """Games played side by side."""
    exploration: Literal["linear", "per-actor"] = "linear"
    """linear: one epsilon that falls; per-actor: a fixed ladder of epsilons over the envs (R2D2)."""
    epsilon_start: float = 1.0
    """Share of random actions at the start."""
    epsilon_final: float = 0.01
    """Share of random actions after --epsilon-frames."""
    epsilon_frames: int = 500_000
    """Frames over which epsilon falls."""

    # --- replay
    update: Literal["stored", "random"] = "stored"
    """Core state a drawn sequence starts from: the actor's, stored (R2D2), or zeros (the bootstrapped random updates of
    DRQN, Hausknecht & Stone 2015)."""
    replay_rows: int = 1_000_000
    """Rows kept, of all envs together."""
    start_rows: int = 20_000
    """Rows gathered before learning starts."""
    priority_exponent: float = 0.0
    """0: sequences are drawn uniformly; else by priority to this power (R2D2: 0.9)."""
    importance_exponent: float = 0.6
    """Correction of prioritised draws, 0 (none) to 1 (full)."""
    priority_eta: float = 0.9
    """Sequence priority: eta max |td error| + (1 - eta) mean |td error|."""

    # --- learning
    samples_per_step: float = 4.0
    """Rows trained for each step of the agent, all envs counted."""
    batch_size: int = 16
    """Sequences an update."""
    burn_in: int = 8
    """Rows at a sequence's start that only refresh the core state."""
    unroll: int = 16
    """Rows of a sequence that are trained."""
    n_step: int = 1
    """Rows after the unroll that lend targets their look-ahead; with --trace-lambda None, n of the n-step return."""
    sequence_stride: int = 8
    """Sequences may start at every so many rows; the core state is kept there."""
    trace_lambda: float | None = 0.65
    """Q(lambda) targets with this lambda. None: n-step targets."""
    discount: float = 0.99
    """Discount a step (4 frames)."""
    double: bool = True
    """The online network selects, the target network values (double Q-learning)."""
    target_period: int = 0
    """Updates between copies to the target network. 0: no target network."""
    value_rescaling: bool = False
    """Train on h(x) = sign(x) (sqrt(|x| + 1) - 1) + 0.001 x in place of clipped rewards."""
    reward_clip: float | None = 1.0
    """Learn from rewards clipped to +- this. None: from the game's own points."""
    loss: Literal["squared", "huber"] = "squared"
    """Loss of a TD error with --head mean: squared (0.5 error^2) or huber (linear beyond 1)."""
    optimizer: Literal["adam", "radam", "rmsprop", "adadelta"] = "adam"
    """Adam, RAdam, centred RMSProp or Adadelta, as torch has them."""
    learning_rate: float = 2.5e-4
    """Step size of the optimiser."""
    optimizer_epsilon: float = 1e-5
    """Added to the denominator of the step."""
    max_grad_norm: float | None = 10.0
    """Gradients are scaled down to this norm. None: never."""

    # --- keeping and watching
    checkpoint_frames: int = 1_000_000
    """Frames between checkpoints."""
    eval_frames: int = 1_000_000
    """Frames between evaluations. 0: none."""
    eval_episodes: int = 10
    """Whole episodes an evaluation, the same number in each of up to 32 envs."""
    eval_epsilon: float = 0.001
    """Share of random actions in evaluations."""
    log_frames: int = 20_000
    """Frames between rows of metrics.jsonl."""
    track: Literal["none", "local", "wandb", "all"] = "local"
    """Where metrics go beside metrics.jsonl: local (a trackio page), wandb (offline unless a key is there)."""

    # --- the machine
    threads: int = 0
    """CPU threads, of torch and of the emulators. 0: all cores."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16: mixed precision with fp32 weights. auto: bf16 where the hardware has it."""
    device: str = "cpu"
    """cpu, or cuda (untested)."""
    compile: bool = False
    """Run the networks through torch.compile, for GPUs (untested)."""


def near(value: str, allowed: list[str]) -> str:
    """' Did you mean x?' or ''."""
    lower = {name.lower(): name for name in allowed}
    close = [lower[name] for name in difflib.get_close_matches(value.lower(), lower, n=1, cutoff=0.5)]
    return f" Did you mean {close[0]}?" if close else ""


def preset(name: str) -> Config:
    """The preset's settings. UsageError on an unknown name."""
    if name not in PRESETS:
        raise UsageError(f"preset {name!r} is not one of {', '.join(PRESETS)}.{near(name, list(PRESETS))}")
    return dataclasses.replace(Config(), **PRESETS[name])


def flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _require(field: str, value: object, ok: bool, allowed: str) -> None:
    if not ok:
        raise UsageError(f"{flag(field)} {value}: {allowed}")


# Field -> (what is allowed, test). Types are tyro's to check; meaning is ours.
_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(
        ("frames", "num_envs", "core_size", "batch_size", "unroll", "n_step", "sequence_stride", "log_frames",
         "checkpoint_frames", "eval_episodes", "frame_stack", "replay_rows"),
        ("must be at least 1", lambda x: x >= 1),
    ),
    **dict.fromkeys(
        ("seed", "hidden", "head_hidden", "epsilon_frames", "start_rows", "burn_in", "target_period", "eval_frames",
         "threads"),
        ("must be 0 or more", lambda x: x >= 0),
    ),
    **dict.fromkeys(
        ("epsilon_start", "epsilon_final", "eval_epsilon", "importance_exponent", "priority_exponent",
         "priority_eta", "hide_probability", "trace_lambda"),
        ("must be between 0 and 1", lambda x: 0 <= x <= 1),
    ),
    **dict.fromkeys(
        ("learning_rate", "optimizer_epsilon", "max_grad_norm", "reward_clip"),
        ("must be above 0", lambda x: 0 < x < float("inf")),
    ),
    "samples_per_step": ("must be above 0 and at most 1000", lambda x: 0 < x <= 1000),
    "discount": ("must be at least 0 and below 1", lambda x: 0 <= x < 1),
    "device": ("must be cpu, cuda or cuda:N", lambda x: re.fullmatch(r"cpu|cuda(:\d{1,3})?", x) is not None),
}  # fmt: skip
_MOST = {"num_envs": 1024, "frame_stack": 32, "sequence_stride": 2000, "eval_episodes": 10_000}


def check(config: Config) -> None:
    """UsageError on the first setting that is out of range by itself. Games and protocols are envs' to check."""
    for field, (allowed, ok) in _RANGES.items():
        value = getattr(config, field)
        if value is not None:
            _require(field, value, bool(ok(value)), allowed)
        if isinstance(value, int):
            most = _MOST.get(field, MAX_COUNT)
            _require(field, value, value <= most, f"must be at most {most}")
    for field, hint in get_type_hints(Config).items():
        if get_origin(hint) is Literal:
            value, allowed = getattr(config, field), list(map(str, get_args(hint)))
            _require(field, value, value in allowed, f"must be one of {', '.join(allowed)}.{near(str(value), allowed)}")
    _require("seed", config.seed, config.seed < 2**31, "must be below 2147483648")
    plain = config.name not in (".", "..") and "/" not in config.name and "\0" not in config.name
    _require("name", repr(config.name), plain and len(config.name.encode()) <= 200,
             "must be a plain folder name of at most 200 bytes")  # fmt: skip
    _require("runs_dir", repr(str(config.runs_dir)), str(config.runs_dir) not in ("", "."), "needs a folder's name")
    if config.value_rescaling:
        _require("value_rescaling", True, config.reward_clip is None, "takes the place of clipping: --reward-clip None")
    if config.hide_probability is not None:
        _require("hide_probability", config.hide_probability, config.observe == "flicker", "needs --observe flicker")
        _require("hide_probability", config.hide_probability, config.observe_parameter is None,
                 "and --observe-parameter are the same setting: give one")  # fmt: skip
    length = config.burn_in + config.unroll + config.n_step
    _require("unroll", config.unroll, length <= 2000, "burn-in, unroll and n-step together must be at most 2000 rows")


def check_evaluation(episodes: int, epsilon: float, **seed: int) -> None:
    """UsageError on terms of an evaluation that make no sense. The seed goes by the name of its flag."""
    _require("episodes", episodes, 1 <= episodes <= 10_000, "must be from 1 to 10000")
    _require("epsilon", epsilon, 0 <= epsilon <= 1, "must be from 0 to 1")
    for name, value in seed.items():
        _require(name, value, 0 <= value < 2**31, "must be from 0, and below 2147483648")


def to_dict(config: Config) -> dict[str, Any]:
    """Plain values for YAML and JSON."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(config).items()}


def save(config: Config, preset_name: str, path: Path) -> None:
    """Full, re-runnable settings as YAML."""
    path.write_text(yaml.safe_dump({"preset": preset_name, **to_dict(config)}, sort_keys=False))


def from_dict(data: Mapping[str, Any], source: str) -> tuple[Config, str]:
    """Settings and preset name from a YAML or JSON mapping. UsageError on unknown keys and wrong types."""
    data = dict(data)
    name = str(_scalar("preset", data.pop("preset", "drqn"), source))
    if not re.fullmatch(r"[\w.-]{1,64}", name):  # it becomes part of file names
        raise UsageError(f"{source}: preset {name!r:.80} is not a plain name")
    data.setdefault("center", False)  # a run from before images were centred; all others say it
    hints = get_type_hints(Config)
    if not all(isinstance(key, str) and len(key) <= 64 for key in data):
        raise UsageError(f"{source}: not the settings of a run")
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise UsageError(f"{source}: unknown setting {unknown[0]!r}.{near(unknown[0], list(hints))}")
    values = {}
    for key, value in data.items():
        hint, value = hints[key], _scalar(key, value, source)
        if hint is Path:
            value = Path(str(value))
        elif get_origin(hint) is Literal or hint is str:
            value = str(value)
        else:
            kinds = get_args(hint) or (hint,)
            if float in kinds and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            if not isinstance(value, tuple(kinds)) or (isinstance(value, bool) and bool not in kinds):
                raise UsageError(f"{source}: {key} is {value!r}, expected {hint}")
        values[key] = value
    config = dataclasses.replace(Config(), **values)
    check(config)
    return config, name


def _scalar(key: str, value: object, source: str) -> Any:
    """The value, if it is a plain one. A stranger's file may hold lists of lists of lists, too long to print."""
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UsageError(f"{source}: {key} is too large a number")
    folder = key in ("name", "runs_dir")  # which may have any name
    if isinstance(value, str) and (len(value) > 4096 or not (value.isprintable() or folder)):
        raise UsageError(f"{source}: {key} is no plain text")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UsageError(f"{source}: {key} is a {type(value).__name__}, expected one plain value")


def load(path: Path) -> tuple[Config, str]:
    """A run's settings from its config.yaml. UsageError if it is missing or not ours."""
    if not os.path.isfile(path):  # opening a pipe would wait for ever
        raise UsageError(f"{path}: missing, or not a file")
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise UsageError(f"{path}: not the settings of a run")
    return from_dict(data, str(path))


def read_yaml(path: Path) -> Any:
    """What a small YAML file holds. UsageError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return yaml.safe_load(file.read(MAX_BYTES).decode())
    except Exception as error:  # PyYAML lets out whatever its constructors meet, such as IndexError
        raise UsageError(f"{path}: cannot be read ({type(error).__name__})") from None
