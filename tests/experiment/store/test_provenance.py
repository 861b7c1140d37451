"""A checkpoint says where it was computed, and a resume says what differs."""

from importlib.metadata import version

from experiment.store.provenance import exactness_lost, machine


def test_the_same_machine_loses_nothing_and_another_is_named():
    here = machine()
    assert (here["torch"], here["ale_py"]) == (version("torch"), version("ale-py"))
    assert exactness_lost(here | {"frames": 4}, here) == []
    assert exactness_lost({**here, "cpu": "Z80"}, here) == [f"cpu 'Z80' -> {here['cpu']!r}"]
    assert exactness_lost({}, {"compile": True}) == ["compile None -> True"]
