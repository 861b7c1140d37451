"""Kill real training runs at random moments, resume them, compare with runs never stopped.

python -m tests.torture --kills 20 [--game breakout] [--seed 1] [--frames 8000]

The seed draws agent, game, screen, replay and kills (docs/reliability.md). The status is 1 if a
resume failed or ended otherwise.
"""

import argparse
import contextlib
import random
import signal
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
        number, end = signal.SIGKILL, time.monotonic() + 8 * draw.random()
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
    elif kind == "checkpoint":
        writing = folder / "checkpoint" / ".writing"
        while process.poll() is None and not writing.exists():
            pass
        time.sleep(0.02 * draw.random())
    else:  # once some of the rows still to come are there, and a little later
        target = bytes_written(folder) + (length - bytes_written(folder)) * draw.random() * 0.6
        while process.poll() is None and bytes_written(folder) < target:
            time.sleep(0.005)
        time.sleep(0.3 * draw.random())
    if process.poll() is not None:
        return None
    process.send_signal(number)
    process.wait()
    return f"{number.name} ({kind}), {bytes_written(folder)} of {length} bytes of metrics written"


def main(words: list[str]) -> int:
    about = "Kill, resume and compare real runs."
    parser = argparse.ArgumentParser("python -m tests.torture", description=about)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--game", default="", help=f"default: {', '.join(GAMES)} in turn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--frames", type=int, default=8_000, help="of each run")
    options = parser.parse_args(words)
    draw = random.Random(options.seed)
    kills = resumes = mismatches = number = 0
    with tempfile.TemporaryDirectory() as home:
        while kills < options.kills:
            preset, settings = draw_trial(draw, number, options.game)
            settings["frames"] = options.frames
            runs = Path(home) / str(number)
            runs.mkdir()
            told = ", ".join(f"{k} {v}" for k, v in settings.items())
            print(f"trial {number}: {preset} {told}", flush=True)
            log, folder, done = runs / "log", runs / "killed", 0
            with log.open("a") as file, contextlib.redirect_stdout(file):
                length = bytes_written(small.start(runs, "whole", preset, **settings))
            new = small.words(runs, "killed", preset, **settings)
            while True:
                resumed = folder.is_dir()  # it begins anew if it was killed before it had one
                command = small.command(*(["--resume", str(folder)] if resumed else new))
                process = small.launch(command, log)
                resumes += resumed
                if kills == options.kills or done == KILLS_A_TRIAL:
                    break
                if not (how := wait_and_kill(process, folder, draw, length)):
                    break
                kills, done = kills + 1, done + 1
                print(f"  kill {kills}: {how}", flush=True)
            wrong = ["a resumed run failed"]
            if process.wait() == 0:
                wrong = small.differences(runs / "whole", folder)
            mismatches += bool(wrong)
            if wrong:
                print(f"  MISMATCH: {', '.join(wrong[:10])}\n{log.read_text()[-3000:]}", flush=True)
            else:
                print(f"  as the run that was never stopped, after {done} kills", flush=True)
            number += 1
    print(f"kills {kills}, resumes {resumes}, mismatches {mismatches}")
    return 1 if mismatches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
