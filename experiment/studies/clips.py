"""Short films of the best and the median episode of each arm, small enough to lie in a page."""

import base64
import zlib
from itertools import islice
from pathlib import Path
from typing import Any

from envs.episodes import EpisodeRecord, replay_colour
from experiment.scores.evaluation import middle_and_best
from experiment.scores.video import write_video
from experiment.studies.study import load_record

SECONDS = 30
MAX_BYTES = 24_000_000  # of all films of a page


def make_clips(results: list[dict[str, Any]], study: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """[{arm, game, screen, which, score, seed, video (base64)}], and in words what is left out and why."""
    clips, missing, room = [], [], MAX_BYTES
    groups = list(dict.fromkeys((r["game"], r["screen"], r["arm"]) for r in results))
    for which in ("best", "median"):  # the best ones first: the median ones make room
        for game, screen, arm in groups:
            runs = [r for r in results if (r["game"], r["screen"], r["arm"]) == (game, screen, arm)]
            if which == "best":
                run = runs[middle_and_best([max(r["scores"]) for r in runs])[1]]
            else:  # of the median run
                run = runs[middle_and_best([r["mean"] for r in runs])[0]]
            episode = middle_and_best(run["scores"])[which == "best"]
            score = run["scores"][episode]
            about = {"arm": arm, "game": game, "screen": screen, "which": which, "score": score, "seed": run["seed"]}
            try:
                data = _film(*load_record(run, study, episode), study / "runs" / "clips")
            except (ValueError, RuntimeError) as error:  # a record that is missing or damaged, or another emulator
                missing.append(f"{which} of {arm}, {game}, {screen}: {error}")
                continue
            if len(data) > room:
                missing.append(f"{which} of {arm}, {game}, {screen}: the page would be too large")
                continue
            room -= len(data)
            clips.append(about | {"video": base64.b64encode(data).decode()})
    return clips, missing


def _film(path: Path, record: EpisodeRecord, folder: Path) -> bytes:
    """The first seconds of the episode at `path` as an mp4, made once: it stays in the folder."""
    film = folder / f"{path.parent.name}-{path.stem}-{zlib.crc32(path.read_bytes()):08x}.mp4"
    if not film.exists():
        folder.mkdir(parents=True, exist_ok=True)
        frames = islice(replay_colour(record, every_frame=True), 60 * SECONDS)
        write_video(frames, film, scale=1, crf=28)
    return film.read_bytes()
