"""Installs our code in the package `recall`; pyproject.toml has all other settings."""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PROGRAMS = ("train", "evaluate", "compare")
ROOMS = "|".join(("agents", "envs", "experiment", *PROGRAMS))
IMPORT = re.compile(rf"^(\s*(?:from|import) )(?=(?:{ROOMS})\b)", re.MULTILINE)


class Build(build_py):
    """Puts `recall.code.` before our names in imports: an installed copy takes no other name."""

    def run(self) -> None:
        package = Path(self.build_lib) / "recall"
        shutil.rmtree(package, ignore_errors=True)  # of an earlier version
        super().run()
        if self.editable_mode:
            return
        for program in PROGRAMS:
            self.copy_file(f"{program}.py", str(package / "code" / f"{program}.py"))
        for path in package.rglob("*.py"):
            path.write_text(IMPORT.sub(r"\1recall.code.", path.read_text("utf-8")), "utf-8")


setup(cmdclass={"build_py": Build})
