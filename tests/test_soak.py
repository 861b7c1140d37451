"""A short form of tests.soak: nothing is opened or started again and again. It asks nothing of speed."""

import json
from pathlib import Path

from tests import soak

FLAGS = {"game": "breakout", "num_envs": 4, "replay_rows": 800, "start_rows": 200, "torso": "dqn-2013", "hidden": 32,
         "core_size": 16, "batch_size": 4, "eval_frames": 3_000, "eval_episodes": 1, "eval_epsilon": 0.5,
         "checkpoint_frames": 1_500, "log_frames": 300, "threads": 2, "track": "none"}  # fmt: skip


def test_open_files_and_threads_stay_the_same_through_checkpoints_and_evaluations(tmp_path: Path):
    words = [word for k, v in FLAGS.items() for word in ("--" + k.replace("_", "-"), str(v))]
    out = tmp_path / "soak.json"
    assert soak.main(["--minutes", "0.25", "--seconds", "1", "--out", str(out), "--", "drqn", *words]) == 0
    found = json.loads(out.read_text())
    measured = found["measured"]
    assert len(measured) >= 3
    assert measured[-1]["frames"] > measured[0]["frames"]
    # A checkpoint or an evaluation that goes on just then has its own: so many, and not one more each time.
    assert found["open_files"]["most"] <= found["open_files"]["least"] + 8
    assert found["threads"]["most"] <= found["threads"]["least"] + 8
    early, late = measured[: len(measured) // 3 + 1], measured[-(len(measured) // 3) - 1 :]
    for name in ("open_files", "threads"):
        assert min(m[name] for m in late) <= min(m[name] for m in early)
    assert min(m["frames_per_cpu_second"] for m in measured) >= 0 < found["frames_per_cpu_second"]["most"]


def test_the_report_gives_slopes_and_the_means_of_the_first_and_last_quarter():
    names = ("resident_mb", "open_files", "threads", "frames_per_second", "frames_per_cpu_second")
    samples = [{"seconds": 360.0 * i, **dict.fromkeys(names, 5.0), "frames_per_cpu_second": 10.0 * i} for i in range(8)]
    found = soak.report(samples)
    speed = found["frames_per_cpu_second"]
    assert (speed["first_quarter"], speed["last_quarter"]) == ((0 + 10) / 2, (60 + 70) / 2)
    assert speed["slope_per_hour"] == 100.0  # 10 more every tenth of an hour
    assert found["resident_mb"]["slope_per_hour"] == 0.0
    assert found["minutes"] == 7 * 6.0
