import pytest

from experiment.memory import task


@pytest.mark.parametrize(("core", "lowest", "highest"), [("lstm", 0.9, 1), ("identity", 0, 0.4)])
def test_a_recurrent_core_remembers_the_cue_the_identity_cannot(core, lowest, highest) -> None:
    tiny = dict(unroll=8, num_envs=8, batch_size=16, core_size=16, start_rows=512)
    tiny |= dict(replay_rows=4096, game="recall/Recall2-v0")
    config = task.settings(core, 3, updates=150, **tiny)
    network = task.train(config)
    assert lowest <= task.success(config, network, wait=2, episodes=100) <= highest
