"""The presets: each is a difference from `drqn`, the defaults of `Config`, or from another preset.

docs/presets.md has the source of every number.
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "drqn": {},
    "dqn": {"core": "identity", "sequence_stride": 1, "last_action_reward": False},
}
# Common to the papers: the network of Mnih et al. 2015, whose newest weights act.
PLAIN = PRESETS["dqn"] | {
    "torso": "nature",
    "center": True,
    "standardize": False,
    "head": "mean",
    "learning_rate": 2.5e-4,
    "learning_rate_updates": 0,
    "average": 0.0,
}
# Mnih et al. 2015, extended data table 1.
PRESETS["dqn-2015"] = PLAIN | {
    "protocol": "dqn-2015",
    "norm": False,
    "center": False,
    "epsilon_final": 0.1,
    "epsilon_frames": 4_000_000,
    "start_rows": 50_000,
    "samples_per_step": 8.0,
    "batch_size": 32,
    "unroll": 1,
    "trace_lambda": None,
    "double": False,
    "target_period": 2_500,
    "loss": "huber",
    "optimizer": "rmsprop",
    "optimizer_epsilon": 3.125e-3,
    "max_grad_norm": None,
    "eval_epsilon": 0.05,
}
PRESETS["dqn-2013"] = PRESETS["dqn-2015"] | {
    "torso": "dqn-2013",
    "hidden": 256,
    "target_period": 0,
    "loss": "squared",
    "discount": 0.95,
}
PRESETS["double-dqn"] = PRESETS["dqn-2015"] | {"double": True}
PRESETS["dueling"] = PRESETS["double-dqn"] | {
    "hidden": 0,
    "head_hidden": 512,
    "dueling": True,
    "learning_rate": 6.25e-5,
    "max_grad_norm": 10.0,
    "epsilon_final": 0.01,
    "target_period": 7_500,
    "eval_epsilon": 0.001,
}
PRESETS["rainbow-lite"] = PRESETS["dueling"] | {
    "epsilon_frames": 1_000_000,
    "start_rows": 20_000,
    "n_step": 3,
    "target_period": 2_000,
    "priority_exponent": 0.5,
    "importance_exponent": 0.4,
    "optimizer": "adam",
    "optimizer_epsilon": 1.5e-4,
}
PRESETS["dqn-10"] = PRESETS["dqn-2015"] | {  # the feed-forward baseline of Hausknecht & Stone 2015
    "frame_stack": 10,
    "replay_rows": 400_000,
    "loss": "squared",
    "optimizer": "adadelta",
    "learning_rate": 0.1,
    "optimizer_epsilon": 1e-6,
    "max_grad_norm": 10.0,
}
PRESETS["drqn-2015"] = PRESETS["dqn-10"] | {
    "frame_stack": 1,
    "core": "lstm",
    "core_size": 512,
    "hidden": 0,
    "update": "random",
    "unroll": 10,
    "parts": 2,
    "target_period": 250,
}
PRESETS["r2d2"] = {  # Kapturowski et al. 2019, table 2
    "frame_stack": 1,
    "torso": "nature",
    "standardize": False,
    "head": "mean",
    "average": 0.0,
    "epsilon_frames": 500_000,
    "start_rows": 20_000,
    "core_size": 512,
    "head_hidden": 512,
    "dueling": True,
    "norm": False,
    "exploration": "per-actor",
    "priority_exponent": 0.9,
    "samples_per_step": 1.5,
    "batch_size": 64,
    "parts": 2,
    "burn_in": 40,
    "unroll": 80,
    "n_step": 5,
    "sequence_stride": 40,
    "trace_lambda": None,
    "discount": 0.997,
    "target_period": 100,
    "value_rescaling": True,
    "reward_clip": None,
    "learning_rate": 1e-4,
    "learning_rate_updates": 0,
    "optimizer_epsilon": 1e-3,
    "max_grad_norm": None,
}
PRESETS["pqn-replay"] = PLAIN | {  # Gallici et al. 2024
    "epsilon_final": 0.001,
    "epsilon_frames": 1_000_000,
    "start_rows": 20_000,
    "num_envs": 128,
    "samples_per_step": 2.0,
    "batch_size": 4,
    "unroll": 32,
    "optimizer": "radam",
    "optimizer_epsilon": 1e-8,
}
