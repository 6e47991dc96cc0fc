"""A virtual environment for each peer, because their pins differ."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.libraries import CHECKOUT, Library

STAMP = "requirements.txt"  # written last, so an environment that has it is complete


class BuildError(Exception):
    """An environment could not be built."""


def is_built(library: Library) -> bool:
    stamp = library.folder / STAMP
    return stamp.is_file() and stamp.read_text().split() == list(library.requirements)


def build(library: Library) -> None:
    """Rebuild a peer's environment, with the pins of `constraints.txt` unless it has its own."""
    python = find_python(library.python)
    _run([python, "-m", "venv", "--clear", library.folder])
    constraints = library.folder / "constraints.txt"
    constraints.write_text(constraints_without(library.requirements))
    pip = [library.interpreter, "-m", "pip", "install", "--quiet"]
    _run([*pip, "-c", constraints, *library.requirements])
    (library.folder / STAMP).write_text("\n".join(library.requirements) + "\n")


def constraints_without(requirements: tuple[str, ...]) -> str:
    """The lines of `constraints.txt` without the packages that the requirements pin."""
    pinned = {_name(requirement) for requirement in requirements}
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if _name(line) not in pinned)


def find_python(oldest: tuple[int, int]) -> str:
    """This Python if it is recent enough, otherwise one on the PATH or from pyenv."""
    if sys.version_info >= oldest:
        return sys.executable
    name = "python{}.{}".format(*oldest)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    pattern = "versions/{}.{}.*/bin/python".format(*oldest)
    for candidate in (shutil.which(name), *map(str, sorted(pyenv.glob(pattern)))):
        # A name on the PATH may be a shim of pyenv, which fails if that version is not selected.
        if (
            candidate
            and subprocess.run([candidate, "--version"], capture_output=True).returncode == 0
        ):
            return candidate
    raise BuildError(f"needs Python {oldest[0]}.{oldest[1]}; put `{name}` on the PATH")


def _name(requirement: str) -> str:
    """The package of a requirement, normalised as pip does it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=<>~! #;\n]", requirement, maxsplit=1)[0]).lower()


def _run(command: list) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise BuildError(errors[-1] if errors else f"{command[0]} ended with {done.returncode}")
