"""An environment for each peer: their pins differ."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.libraries import CHECKOUT, Library

STAMP = "requirements.txt"  # written last, so that an environment that has it is whole


class BuildError(Exception):
    """Why an environment could not be built."""


def is_built(library: Library) -> bool:
    stamp = library.folder / STAMP
    return stamp.is_file() and stamp.read_text().split() == list(library.requirements)


def build(library: Library) -> None:
    """Builds a peer's environment anew, with pins of `constraints.txt` where it has no other."""
    python = find_python(library.python)
    _run([python, "-m", "venv", "--clear", library.folder])
    constraints = library.folder / "constraints.txt"
    constraints.write_text(constraints_without(library.requirements))
    pip = [library.interpreter, "-m", "pip", "install", "--quiet"]
    _run([*pip, "-c", constraints, *library.requirements])
    (library.folder / STAMP).write_text("\n".join(library.requirements) + "\n")


def constraints_without(requirements: tuple[str, ...]) -> str:
    """The lines of `constraints.txt`, but for the packages that are pinned otherwise."""
    pinned = {_name(requirement) for requirement in requirements}
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if _name(line) not in pinned)


def find_python(oldest: tuple[int, int]) -> str:
    """This Python if it is recent enough, else one on the PATH or of pyenv."""
    if sys.version_info >= oldest:
        return sys.executable
    name = "python{}.{}".format(*oldest)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    pattern = "versions/{}.{}.*/bin/python".format(*oldest)
    for candidate in (shutil.which(name), *map(str, sorted(pyenv.glob(pattern)))):
        # A name on the PATH may be pyenv's, which fails for a version that is not selected.
        if (
            candidate
            and subprocess.run([candidate, "--version"], capture_output=True).returncode == 0
        ):
            return candidate
    raise BuildError(f"needs Python {oldest[0]}.{oldest[1]}; put `{name}` on the PATH")


def _name(requirement: str) -> str:
    """The package of a requirement, as pip compares names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=<>~! #;\n]", requirement, maxsplit=1)[0]).lower()


def _run(command: list) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise BuildError(errors[-1] if errors else f"{command[0]} ended with {done.returncode}")
