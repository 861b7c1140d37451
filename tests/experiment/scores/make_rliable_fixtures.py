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
    rng, levels = np.random.default_rng(20211), np.linspace(0, 3, 13)
    # [runs, games]; rounded, so that ties occur
    x = np.round(rng.lognormal(-0.2, 0.8, size=(5, 6)), 2)
    y = np.round(rng.lognormal(-0.5, 0.8, size=(4, 6)), 2)
    y[:2, 0] = x[:2, 0]
    y[1, 3] = x[4, 3]
    measures = {
        "mean": (metrics.aggregate_mean, [x], RESAMPLES),
        "iqm": (metrics.aggregate_iqm, [x], RESAMPLES),
        "probability_of_improvement": (metrics.probability_of_improvement, [x, y], RESAMPLES_SLOW),
    }
    np.random.seed(7)  # rliable draws from the global generator
    points: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for name, (measure, tables, reps) in measures.items():
        point, interval = library.get_interval_estimates(
            {"": tables if len(tables) > 1 else x},
            lambda *scores, measure=measure: np.array([measure(*scores)]),
            reps=reps,
        )
        points[name], intervals[name] = float(point[""][0]), interval[""][:, 0].tolist()
    point, interval = library.create_performance_profile({"": x}, levels, reps=RESAMPLES_SLOW)
    points["profile"], intervals["profile"] = point[""].tolist(), interval[""].tolist()
    tables = {"levels": levels.tolist(), "x": x.tolist(), "y": y.tolist()}
    path = Path(__file__).with_name("rliable_fixtures.json")
    path.write_text(json.dumps(tables | {"points": points, "intervals": intervals}) + "\n")


if __name__ == "__main__":
    main()
