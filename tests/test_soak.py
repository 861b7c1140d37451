"""A short form of tests.soak: nothing is opened or started again and again. It asks nothing of
speed."""

import json
from pathlib import Path

from tests import small, soak

FLAGS = {
    "num_envs": 4,
    "replay_rows": 200,
    "eval_frames": 800,
    "checkpoint_frames": 400,
    "log_frames": 100,
}

LENGTH = ["--minutes", "0.02", "--frames", "3200", "--seconds", "0.2"]


def test_open_files_and_threads_stay_the_same_through_checkpoints_and_evaluations(tmp_path: Path):
    words = small.flags(**FLAGS)
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


def test_the_report_gives_slopes_and_the_means_of_the_first_and_last_quarter():
    fives = dict.fromkeys(soak.FIGURES, 5.0)
    samples = [fives | {"seconds": 360.0 * i, "frames_per_cpu_second": 10.0 * i} for i in range(8)]
    result = soak.report(samples)
    speed = result["frames_per_cpu_second"]
    assert (speed["first_quarter"], speed["last_quarter"]) == ((0 + 10) / 2, (60 + 70) / 2)
    assert speed["slope_per_hour"] == 100.0  # 10 more every tenth of an hour
    assert result["resident_mb"]["slope_per_hour"] == 0.0
    assert result["minutes"] == 7 * 6.0
