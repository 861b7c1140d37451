"""Short films of the best and the median episode of each arm, small enough to lie in a page."""

from __future__ import annotations

import base64
from itertools import islice
from pathlib import Path
from typing import Any

from envs.episodes import EpisodeRecord, replay_colour
from experiment.video import write_video

SECONDS = 30
MAX_BYTES = 24_000_000  # of all films of a page


def make_clips(results: list[dict[str, Any]], study: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """[{arm, game, screen, which, score, seed, video (base64)}], and in words what is left out and why."""
    clips, missing, room = [], [], MAX_BYTES
    groups = list(dict.fromkeys((r["game"], r["screen"], r["arm"]) for r in results))
    for which in ("best", "median"):  # the best ones first: the median ones make room
        for game, screen, arm in groups:
            runs = [r for r in results if (r["game"], r["screen"], r["arm"]) == (game, screen, arm)]
            ranked = sorted(((score, r, i) for r in runs for i, score in enumerate(r["scores"])), key=lambda x: -x[0])
            score, run, episode = ranked[0 if which == "best" else len(ranked) // 2]
            about = {"arm": arm, "game": game, "screen": screen, "which": which, "score": score, "seed": run["seed"]}
            try:
                data = _film(study / run["records"] / f"episode-{episode:03d}.json")
            except (ValueError, RuntimeError) as error:  # a record that is missing or damaged, or another emulator
                missing.append(f"{which} of {arm}, {game}, {screen}: {error}")
                continue
            if len(data) > room:
                missing.append(f"{which} of {arm}, {game}, {screen}: the page would be too large")
                continue
            room -= len(data)
            clips.append(about | {"video": base64.b64encode(data).decode()})
    return clips, missing


def _film(path: Path) -> bytes:
    """The episode's first seconds as an mp4, made once: it stays in the run's clips/."""
    record, film = EpisodeRecord.load(path), path.parents[2] / "clips" / f"{path.parent.name}-{path.stem}.mp4"
    if not film.exists():
        film.parent.mkdir(exist_ok=True)
        frames = islice(replay_colour(record, every_frame=True), 60 * SECONDS)
        write_video(frames, film, scale=1, crf=28)
    return film.read_bytes()
