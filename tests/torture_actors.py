"""Kill players, nodes and the learner of a run on a real Ray cluster, and look at every row.

python -m tests.torture_actors --players 20 --nodes 3 --learners 2 [--seed 1]

A life of a player is a pure function of its seed and its actions: at the end the games are played
again, and every row in the replay must be the next one of its player's life. A row that was lost or
that came twice would shift all later ones. The status is 1 if a row differs, or if a process
outlives its learner.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import train
from agents.ring import BLOCK
from envs.emulator import FRAME_SKIP
from envs.episodes import EpisodeRecord, replay_grey
from experiment import build
from experiment.build import stretch_rows
from experiment.runs.actors import Players
from experiment.settings import config as settings
from experiment.store.checkpoint import load_latest, saved_frames, subtree
from tests import small

# Before Ray is imported, which reads them once. By default Ray runs its workers at nice 15, behind
# any other work.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_worker_niceness": "0"}
RUN: dict[str, Any] = {"num_envs": 4, "actors": 2, "frames": 10**9, "torso": "dqn-2013"}
RUN |= {"replay_rows": 400_000, "checkpoint_frames": 1_000}
PAUSE = 4  # stretches between two kills, at least
# In the run's folder: a line for each stretch inserted, with ring, seed of the life, time in it.
LIVES = "lives.txt"


@contextmanager
def two_nodes() -> Iterator[Any]:
    """ray.cluster_utils.Cluster with a head and one other node, of one core each."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    add_node(cluster)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster: Any) -> None:
    """Another node of one core. It is tried again where the machine is too busy."""
    for attempt in range(10):
        try:
            cluster.add_node(num_cpus=1)
            return
        except Exception as error:
            if attempt == 9 or "timed out during startup" not in str(error):
                raise


def learn(folder: Path, words: list[str]) -> int:
    """train.py, with a line in LIVES for each stretch."""
    recv = Players.recv

    def recorded(players: Players) -> Any:
        stretch = recv(players)
        if stretch.steps:
            with (folder / LIVES).open("a") as file:
                file.write(f"{stretch.ring} {players.seats[stretch.ring].seed} {stretch.time}\n")
        return stretch

    Players.recv = recorded
    return train.main(words)


def lives(folder: Path) -> list[tuple[int, int, int]]:
    """The lines of LIVES."""
    path = folder / LIVES
    text = path.read_text() if path.exists() else ""
    return [(int(a), int(b), int(c)) for a, b, c in map(str.split, text.splitlines())]


def player_processes(cluster: Any) -> list[psutil.Process]:
    """Those of this cluster alone."""
    session, ours = cluster.head_node.get_session_dir_path(), []
    for process in psutil.process_iter(["cmdline"]):
        if "ray::RemotePlayer" in " ".join(process.info["cmdline"] or []):
            parent = process.parent()
            ours += [process] * (parent is not None and session in " ".join(parent.cmdline()))
    return ours


def torture(cluster: Any, folder: Path, events: list[str], draw: random.Random) -> list[str]:
    """Train in `folder`, and kill what `events` name: player, node or learner. The faults."""
    faults: list[str] = []

    def launch(*words: str) -> "subprocess.Popen[str]":
        module = [sys.executable, "-m", "tests.torture_actors", "learn", str(folder)]
        command = [*module, *words, "--ray", cluster.address]
        return small.launch(command, folder.parent / f"{folder.name}.log", cwd=small.ROOT)

    process = launch(*small.words(folder.parent, folder.name, **RUN))
    try:
        for event in [*events, "end"]:
            before, deadline = len(lives(folder)), time.monotonic() + 600
            while len(lives(folder)) < before + PAUSE or not player_processes(cluster):
                if process.poll() is not None or time.monotonic() > deadline:
                    return [*faults, f"before the next {event}: the run stands still or has ended"]
                time.sleep(0.05)
            time.sleep(draw.random())
            print(f"{event} after {len(lives(folder))} stretches", flush=True)
            if event == "player":
                draw.choice(player_processes(cluster)).kill()
            elif event == "node":
                cluster.remove_node(draw.choice(list(cluster.worker_nodes)), allow_graceful=False)
                # A busy machine starts no node in the 30 seconds that Ray allows.
                process.send_signal(signal.SIGSTOP)
                add_node(cluster)
                process.send_signal(signal.SIGCONT)
            elif event == "learner":
                players = player_processes(cluster)
                process.kill()
                process.wait()
                if psutil.wait_procs(players, timeout=60)[1]:
                    faults.append("a player outlived its learner")
                _forget(folder)
                process = launch("--resume", str(folder))
        process.terminate()
        faults += ["the run did not end well"] * (process.wait(300) != 0)
    finally:
        process.kill()
    return faults + differences(folder)


def _forget(folder: Path) -> None:
    """Of the stretches those that the newest checkpoint does not hold."""
    config, frames = settings.load(folder / "config.yaml"), [*saved_frames(folder), 0][0]
    whole = frames // (FRAME_SKIP * stretch_rows(config) * config.num_envs // config.actors)
    lines = (folder / LIVES).read_text().splitlines(keepends=True)
    (folder / LIVES).write_text("".join(lines[:whole]))


def differences(folder: Path) -> list[str]:
    """Where the replay of the last checkpoint is not what its players' lives give when they are
    played again."""
    saved = load_latest(folder, training=True, report=print)
    config = settings.from_dict(saved.meta["config"], str(folder))
    rows, lanes = stretch_rows(config), config.num_envs // config.actors
    replay = build.make_replay(config, build.blueprint(config).state_size)
    replay.restore({k: v.numpy() for k, v in subtree(saved.training, "replay").items()})
    faults, inserted = [], len(lives(folder)) * rows * lanes
    held = sum(ring.time for ring in replay.rings) * lanes
    if (held, saved.meta["frames"]) != (inserted, inserted * FRAME_SKIP):
        faults.append(f"{inserted} rows were inserted, the replay and the counters have others")
    for number, ring in enumerate(replay.rings):
        columns, end = ring.state(), 0
        of_ring = [life for life in lives(folder) if life[0] == number]
        for seed, stretches in groupby(of_ring, key=lambda life: life[1]):
            one = replace(config, actors=0, ray="", num_envs=lanes, seed=seed)
            begin, end = end, end + rows * len(list(stretches))
            envs = build.make_envs(one, build.rules(one))
            frame = envs.reset()
            for t in range(begin, end):
                envs.send(columns["action"][t])
                step = envs.recv()
                gap = t == end - 1 and end < ring.time  # there the row is truncated
                truncated = ~step.terminated if gap else step.truncated
                images = [ring.block(t // BLOCK, lane)[t % BLOCK] for lane in range(lanes)]
                names = ("reward", "terminated", "truncated")
                stored = [images, *(columns[name][t] for name in names)]
                again = [frame, step.reward, step.terminated, truncated]
                if not all(map(np.array_equal, stored, again)):
                    faults.append(f"player {number}, seed {seed}, row {t - begin}: differs")
                    break
                frame = step.frame
            envs.close()
    for path in (folder / "episodes").glob("*.json"):
        replay_grey(EpisodeRecord.load(path))  # RuntimeError if it does not come out as it says
    since, batch = saved.meta["learning_since"], config.batch_size * config.unroll
    steps = (saved.meta["frames"] - since) // FRAME_SKIP
    least, most = (int(config.samples_per_step * n // batch) for n in (steps, steps + rows * lanes))
    if not least <= saved.meta["updates"] <= most:  # those of the stretch under way may be made
        faults.append(f"{saved.meta['updates']} updates in {steps} steps, not {least} to {most}")
    return faults


def main(words: list[str]) -> int:
    about = "Kill so many players, nodes and learners of a run on Ray, check its rows."
    options = small.options("torture_actors", words, about, players=20, nodes=3, learners=2, seed=1)
    draw, kills = random.Random(options.seed), (options.players, options.nodes, options.learners)
    events = np.repeat(("player", "node", "learner"), kills).tolist()
    draw.shuffle(events)
    with tempfile.TemporaryDirectory() as home, two_nodes() as cluster:
        folder = Path(home) / "run"
        faults = torture(cluster, folder, events, draw)
        stretches, row = lives(folder), small.rows(folder)[-1]
        if faults:
            print((folder.parent / "run.log").read_text()[-3000:])
    print(*faults, sep="\n", end="\n" * bool(faults))
    setup = f"{options.players} players, {options.nodes} nodes, {options.learners} learners"
    of = f"{len(stretches)} stretches of {len({life[:2] for life in stretches})} lives"
    counted = ", ".join(f"{row[name]} {name}" for name in ("steps", "updates", "actor_restarts"))
    print(f"killed {setup}; {of}, {counted}; differences {len(faults)}")
    return int(bool(faults))


if __name__ == "__main__":
    if sys.argv[1:2] == ["learn"]:
        sys.exit(learn(Path(sys.argv[2]), sys.argv[3:]))
    sys.exit(main(sys.argv[1:]))
