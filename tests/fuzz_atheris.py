"""One loader under atheris: `tests.fuzz` starts this. Prints inputs, refused and crashes as JSON on its last line."""

import json
import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["envs", "experiment", "yaml", "json"]):
    from tests import fuzz

LARGEST = 2**21  # bytes of an input


def main(name: str, count: int, number: int, keep: Path) -> None:
    with tempfile.TemporaryDirectory() as home:
        lab = fuzz.Lab(Path(home), keep)
        target = next(t for t in lab.targets if t.name == name)
        lab.warm_up(target)
        corpus = Path(home) / "corpus"
        corpus.mkdir()
        for i, data in enumerate(target.true):
            (corpus / str(i)).write_bytes(data)

        def one(data: bytes) -> None:
            lab.attempt(target, data)
            if target.inputs >= count:
                print(json.dumps([target.inputs, target.refused, target.crashes]), flush=True)
                os._exit(0)

        words = [f"-seed={number}", f"-max_len={LARGEST}", "-timeout=0", "-rss_limit_mb=0", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *words, str(corpus)], one, enable_python_coverage=True)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
