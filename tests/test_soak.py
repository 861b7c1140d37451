"""A short form of tests.soak: nothing is opened or started again and again. It asks nothing of
speed."""

import json

from tests import small, soak

EVERY = {"eval_frames": 800, "checkpoint_frames": 400, "log_frames": 100}
LENGTH = "--minutes 0.02 --frames 3200 --seconds 0.2".split()


def test_open_files_and_threads_stay_the_same_through_checkpoints_and_evaluations(tmp_path) -> None:
    words = small.flags(num_envs=4, replay_rows=200, **EVERY)
    frames = words.index("--frames")
    del words[frames : frames + 2]  # it trains until it is stopped
    out = tmp_path / "soak.json"
    assert soak.main([*LENGTH, "--out", str(out), "--", "drqn", *words]) == 0
    result = json.loads(out.read_text())
    measured = result["measured"]
    assert measured[-1]["frames"] > measured[0]["frames"]
    third = len(measured) // 3 + 1
    for name in ("open_files", "threads"):
        # A checkpoint or an evaluation that goes on just then has its own: so many, and not one
        # more each time.
        assert result[name]["most"] <= result[name]["least"] + 8
        assert min(m[name] for m in measured[-third:]) <= min(m[name] for m in measured[:third])
    assert result["frames_per_cpu_second"]["most"] > 0
