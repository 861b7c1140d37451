"""The protocols, and the vector emulators against one plain emulator driven by hand."""

import re
from pathlib import Path

import ale_py
import numpy as np
import pytest
from ale_py import roms

import envs
from envs.emulator import Emulators, machine
from envs.families import rules
from envs.protocols import PROTOCOLS, Protocol
from tests.envs.walk import refused

ONE, RULES = np.ones(1, bool), PROTOCOLS["v5"]


def test_the_protocols_are_those_of_the_papers() -> None:
    for named, actions in (
        (Protocol("v5", 0.25, False, 0, False), 4),
        (Protocol("machado18", 0.25, True, 0, False), 18),
        (Protocol("dqn-2015", 0.0, False, 30, True), 4),
    ):
        assert rules("breakout", named.name) == named
        assert len(machine("breakout").actions(named)) == actions
    assert machine("breakout").minimal_actions == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    with refused("no protocol named 'v4': there are v5, "):
        rules("breakout", "v4")


def plain(game, seed):
    """A plain emulator under the protocol v5, and the game's actions."""
    ale = ale_py.ALEInterface()
    ale.setInt("random_seed", seed)
    ale.setFloat("repeat_action_probability", RULES.sticky)
    ale.loadROM(roms.get_rom_path(game))
    ale.reset_game()
    return ale, ale.getMinimalActionSet()


def area(small, large):
    """[small, large]: each row averages the part of the large axis that one small pixel covers."""
    edges, pixels = np.arange(small + 1) * large / small, np.arange(large)
    ends = np.minimum(edges[1:, None], pixels + 1), np.maximum(edges[:-1, None], pixels)
    return (ends[0] - ends[1]).clip(0) * small / large


@pytest.mark.parametrize(("game", "steps"), [("carnival", 40), ("space_invaders", 150)])
def test_a_step_is_four_frames_of_a_plain_emulator_two_of_them_pooled(game, steps) -> None:
    kinds = ((False, False), (True, False), (True, True))
    made = [Emulators(game, 1, RULES, threads=1, colour=c, pooled=p) for c, p in kinds]
    ale, actions = plain(game, 7)
    first = [env.reset(ONE, np.array([7]))[0][0] for env in made]
    assert (first[1] == ale.getScreenRGB()).all()
    rows, columns = (area(84, side) for side in ale.getScreenDims())
    rng, total, flickers = np.random.default_rng(0), 0.0, 0
    for t in range(steps):
        action = int(rng.integers(len(actions)))
        screens, reward = [], 0
        for _ in range(4):
            reward += ale.act(actions[action])
            screens.append((ale.getScreenGrayscale(), ale.getScreenRGB()))
        images = []
        for env in made:
            env.send(np.array([action]))
            seen, rewards, over, _, lives = env.recv()
            assert (rewards[0], lives[0], over[0]) == (reward, ale.lives(), False)
            images.append(seen[0])
        assert ale.getEpisodeFrameNumber() == 4 * (t + 1)
        brighter = [np.maximum(*pair) for pair in zip(*screens[2:], strict=True)]  # grey, in colour
        assert np.abs(rows @ brighter[0].astype(float) @ columns.T - images[0]).max() <= 1
        assert (images[1] == screens[3][1]).all()
        assert (images[2] == brighter[1]).all()
        flickers += (images[1] != images[2]).any()
        total += reward
    assert flickers
    assert total > 1 or game == "carnival"


def test_no_ops_are_random_and_fewer_than_the_protocol_says() -> None:
    for name, allowed in (("dqn-2015", range(30)), ("v5", range(1))):
        env = Emulators("breakout", 2, PROTOCOLS[name], threads=2)._native
        env.reset(seed=0)
        counts = {n for _ in range(20) for n in env.reset()[1]["episode_frame_number"].tolist()}
        assert counts <= set(allowed)
        assert len(counts) > len(allowed) // 2


def test_imports_go_one_way_and_one_file_knows_ale_py() -> None:
    for file in Path(envs.__file__).parent.glob("*.py"):
        imported = set(re.findall(r"^\s*(?:import|from) (\w+)", file.read_text(), re.MULTILINE))
        assert not imported & {"agents", "experiment", "torch"}
        assert ("ale_py" in imported) == (file.name == "emulator.py")
