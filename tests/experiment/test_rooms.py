"""Imports between rooms go one way: a room is a folder of `experiment`, or a module beside them."""

import ast
from graphlib import TopologicalSorter

from experiment import ROOT

HOUSES = "agents", "envs", "experiment"


def room(module: str) -> str:
    """`experiment.runs` of `experiment.runs.run`; `agents` of `agents.ring`."""
    return ".".join(module.split(".")[: 2 if module.startswith("experiment.") else 1])


def test_no_room_imports_another_that_needs_it() -> None:
    arrows: dict[str, set[str]] = {}
    for path in (
        *ROOT.glob("*.py"),
        *(p for house in HOUSES for p in (ROOT / house).rglob("*.py")),
    ):
        here = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                source = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                there = {room(source + alias.name) for alias in node.names}
                arrows.setdefault(here, set()).update(there - {here})
    TopologicalSorter(arrows).prepare()  # CycleError if there is a circle
    assert not (arrows["agents"] | arrows["envs"]) & arrows.keys()
    assert "experiment.runs" in arrows["experiment.studies"]
