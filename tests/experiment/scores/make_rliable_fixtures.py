"""Writes rliable_fixtures.json: what rliable 1.2.0 itself says of two small tables of scores.

rliable does not import beside current versions of its dependencies, so make it a throw-away
environment:

    python -m venv /tmp/rliable
    /tmp/rliable/bin/pip install "rliable==1.2.0" "arch==7.2.0" "pandas<3" "numpy<2"
    /tmp/rliable/bin/python tests/experiment/scores/make_rliable_fixtures.py
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from rliable import library, metrics  # pyright: ignore[reportMissingImports]

RESAMPLES = 50_000
RESAMPLES_SLOW = 5_000  # rliable loops in Python


def main() -> None:
    rng = np.random.default_rng(20211)
    # [runs, games]; rounded, so that ties occur
    x = np.round(rng.lognormal(-0.2, 0.8, size=(5, 6)), 2)
    y = np.round(rng.lognormal(-0.5, 0.8, size=(4, 6)), 2)
    y[:2, 0] = x[:2, 0]
    y[1, 3] = x[4, 3]
    np.random.seed(7)  # rliable draws from the global generator
    points: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for name in ("mean", "iqm"):
        measure = getattr(metrics, f"aggregate_{name}")
        point, interval = library.get_interval_estimates(
            {"x": x}, lambda scores, measure=measure: np.array([measure(scores)]), reps=RESAMPLES
        )
        points[name], intervals[name] = float(point["x"][0]), interval["x"][:, 0].tolist()
    point, interval = library.get_interval_estimates(
        {"xy": [x, y]},
        lambda a, b: np.array([metrics.probability_of_improvement(a, b)]),
        reps=RESAMPLES_SLOW,
    )
    points["probability_of_improvement"] = float(point["xy"][0])
    intervals["probability_of_improvement"] = interval["xy"][:, 0].tolist()
    levels = np.linspace(0, 3, 13)
    point, interval = library.create_performance_profile({"x": x}, levels, reps=RESAMPLES_SLOW)
    points["profile"], intervals["profile"] = point["x"].tolist(), interval["x"].tolist()
    fixtures = {
        "levels": levels.tolist(),
        "x": x.tolist(),
        "y": y.tolist(),
        "points": points,
        "intervals": intervals,
    }
    path = Path(__file__).with_name("rliable_fixtures.json")
    path.write_text(json.dumps(fixtures) + "\n")


if __name__ == "__main__":
    main()
