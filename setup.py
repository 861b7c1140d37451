"""Installs the three programs in the package `recall`; pyproject.toml has all other settings."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class Build(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for program in ("train.py", "evaluate.py", "compare.py"):
                self.copy_file(program, str(Path(self.build_lib) / "recall" / program))


setup(cmdclass={"build_py": Build})
