"""The vector emulators against one plain emulator driven by hand."""

import re
from pathlib import Path

import ale_py
import numpy as np
import pytest
from ale_py import roms

import envs
from envs.emulator import Emulators, machine
from envs.protocols import protocol

ONE = np.ones(1, bool)


def plain(game: str, seed: int, sticky: float) -> ale_py.ALEInterface:
    ale = ale_py.ALEInterface()
    ale.setInt("random_seed", seed)
    ale.setFloat("repeat_action_probability", sticky)
    rom = roms.get_rom_path(game)
    assert rom is not None
    ale.loadROM(rom)
    ale.reset_game()
    return ale


def area(small: int, large: int) -> np.ndarray:
    """[small, large]: each row averages the part of the large axis that falls on one small
    pixel."""
    edges = np.arange(small + 1) * large / small
    pixels = np.arange(large)
    # [small, large]
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return overlap.clip(0) * small / large


def test_a_step_is_four_emulator_frames_and_a_frame_the_maximum_of_the_last_two():
    game, rules = "space_invaders", protocol("v5")
    env = Emulators(game, 1, rules, threads=1)
    ale = plain(game, 7, rules.sticky)
    height, width = ale.getScreenDims()
    rows, columns = area(84, height), area(84, width)
    env.reset(ONE, np.array([7]))
    rng = np.random.default_rng(0)
    total = 0.0
    for t in range(150):
        action = int(rng.integers(len(ale.getMinimalActionSet())))
        screens, reward = [], 0
        for _ in range(4):
            reward += ale.act(ale.getMinimalActionSet()[action])
            screens.append(ale.getScreenGrayscale())
        env.send(np.array([action]))
        seen, rewards, over, _, lives = env.recv()
        assert rewards[0] == reward
        assert ale.getEpisodeFrameNumber() == 4 * (t + 1)
        assert lives[0] == ale.lives()
        pooled = np.maximum(screens[2], screens[3]).astype(float)  # [height, width]
        assert np.abs(rows @ pooled @ columns.T - seen[0]).max() <= 1
        total += reward
        assert not over[0]
    assert total > 1


@pytest.mark.parametrize(("game", "pooled"), [("carnival", False), ("space_invaders", True)])
def test_colour_frames_are_the_emulators_own_or_the_brighter_of_its_last_two_in_native_size(
    game: str, pooled: bool
):
    # Not all games are of one size.
    assert (machine("breakout").height, machine("carnival").height) == (210, 214)
    rules, flickers = protocol("v5"), 0
    env, ale = (
        Emulators(game, 1, rules, threads=1, colour=True, pooled=pooled),
        plain(game, 3, rules.sticky),
    )
    frames, _ = env.reset(ONE, np.array([3]))
    screens = [ale.getScreenRGB()]
    for t in range(40):
        assert (frames[0] == (np.max(screens[-2:], axis=0) if pooled else screens[-1])).all()
        flickers += (frames[0] != screens[-1]).any()
        for _ in range(4):
            ale.act(ale.getMinimalActionSet()[t % 3])
            screens.append(ale.getScreenRGB())
        env.send(np.array([t % 3]))
        frames = env.recv()[0]
    assert bool(flickers) == pooled


def test_no_ops_are_random_and_fewer_than_the_protocol_says():
    for name, allowed in (("dqn-2015", range(30)), ("v5", range(1))):
        env = Emulators("breakout", 2, protocol(name), threads=2)._native
        counts = []
        env.reset(seed=0)
        for _ in range(20):
            _, info = env.reset()
            counts += info["episode_frame_number"].tolist()
        assert set(counts) <= set(allowed)
        assert len(set(counts)) > len(allowed) // 2


def test_imports_go_one_way_and_one_file_knows_ale_py():
    folder = Path(str(envs.__file__)).parent
    for file in folder.glob("*.py"):
        imported = set(re.findall(r"^\s*(?:import|from) (\w+)", file.read_text(), re.MULTILINE))
        assert not imported & {"agents", "experiment", "torch"}
        assert ("ale_py" in imported) == (file.name == "emulator.py")
