"""Kill real training runs at random moments, resume them, compare with runs never stopped.

python -m tests.torture --kills 20 [--game breakout] [--seed 1] [--frames 8000]

The seed draws agent, game, screen, replay and kills (docs/reliability.md). The status is 1 if a
resume failed or ended otherwise.
"""

import contextlib
import itertools
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests import small

GAMES = ("breakout", "space_invaders", "pong")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
KILLS_A_TRIAL = 5


def draw_trial(draw: random.Random, number: int, game: str) -> tuple[str, dict[str, Any]]:
    """Preset and settings. Presets and replays take turns, so that few trials already see all of
    them."""
    settings = {"num_envs": 3, "checkpoint_frames": 1_000, "eval_frames": 2_000}
    settings |= {"seed": draw.randrange(1000), "game": game or GAMES[number % len(GAMES)]}
    settings["observe"] = draw.choice(("flicker", "flicker", "full", "blackout"))
    settings["replay_rows"] = draw.choice((1_500, 3_000))
    if number // 2 % 2 == 0:
        settings["priority_exponent"] = 0.9
    if draw.random() < 0.5:
        settings["target_period"] = 5
    return ("dqn", "drqn")[number % 2], settings


def bytes_written(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def wait_and_kill(process, folder: Path, draw: random.Random, length: int) -> str | None:
    """Kill the process at a random moment. What was done, or None if it ended before."""
    number = draw.choice(SIGNALS)
    kind = draw.choice(("frame", "frame", "frame", "checkpoint", "start"))
    if kind == "start":  # imports, reading the checkpoint, playing tapes again
        number, before, later = signal.SIGKILL, lambda: False, 8.0
    elif kind == "checkpoint":
        before, later = (lambda: not (folder / "checkpoint" / ".writing").exists()), 0.02
    else:  # once some of the rows still to come are there, and a little later
        target = bytes_written(folder) + (length - bytes_written(folder)) * draw.random() * 0.6
        before, later = (lambda: bytes_written(folder) < target), 0.3
    while process.poll() is None and before():
        time.sleep(0.0005)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(later * draw.random())
    if process.poll() is not None:
        return None
    process.send_signal(number)
    process.wait()
    return f"{number.name} ({kind}), {bytes_written(folder)} of {length} bytes of metrics written"


def main(words: list[str]) -> int:
    about, defaults = "Kill, resume and compare real runs.", {"kills": 20, "game": ""}
    options = small.options("torture", words, about, **defaults, seed=1, frames=8_000)
    draw, killed, resumes, mismatches, number = random.Random(options.seed), 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as home:
        while killed < options.kills:
            preset, settings = draw_trial(draw, number, options.game)
            settings["frames"] = options.frames
            runs = Path(home) / str(number)
            runs.mkdir()
            shown = ", ".join(f"{k} {v}" for k, v in settings.items())
            print(f"trial {number}: {preset} {shown}", flush=True)
            log, folder = runs / "log", runs / "killed"
            with log.open("a") as file, contextlib.redirect_stdout(file):
                length = bytes_written(small.start(runs, "whole", preset, **settings))
            for done in itertools.count():
                resumed = folder.is_dir()  # it begins anew if it was killed before it had one
                new = small.words(runs, "killed", preset, **settings)
                command = small.command(*(["--resume", str(folder)] if resumed else new))
                process = small.launch(command, log)
                resumes += resumed
                more = killed < options.kills and done < KILLS_A_TRIAL
                if not more or not (how := wait_and_kill(process, folder, draw, length)):
                    break
                killed += 1
                print(f"  kill {killed}: {how}", flush=True)
            failed = process.wait()
            wrong = (
                ["a resumed run failed"] if failed else small.differences(runs / "whole", folder)
            )
            mismatches += bool(wrong)
            if wrong:
                print(f"  MISMATCH: {', '.join(wrong[:10])}\n{log.read_text()[-3000:]}", flush=True)
            else:
                print(f"  as the run that was never stopped, after {done} kills", flush=True)
            number += 1
    print(f"kills {killed}, resumes {resumes}, mismatches {mismatches}")
    return 1 if mismatches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
