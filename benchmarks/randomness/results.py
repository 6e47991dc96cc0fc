"""The results of a run, kept after each test, so that a stopped run can go on."""

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import _results
from benchmarks._timing import circumstances
from benchmarks.randomness.runs import Run
from benchmarks.randomness.streams import draw


class MadeOtherwiseError(ValueError):
    """Results that a run cannot go on with."""


def read(run: Run, folder: Path) -> dict[str, Any] | None:
    return _results.read(folder).get(run.name)


def read_or_start(run: Run, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Read the results of a run, or start them.

    **Raises:** `MadeOtherwiseError` if it was run with other settings, or the generator changed.
    """
    chunk = next(draw(run.generator, run.stream, seed=0))
    fingerprint = hashlib.sha256(chunk.tobytes()).hexdigest()[:16]
    settings = {**settings, "first_chunk_sha256": fingerprint}
    found = read(run, folder)
    if found is None:
        about = circumstances()
        about["versions"] |= {name: version(name) for name in ("numpy", "scipy")}
        return {"run": run.name, "settings": settings, **about, "tests": {}}
    for name, value in settings.items():
        if found["settings"].get(name) != value:
            raise MadeOtherwiseError(
                f"{run.name} in {folder / _results.FILE} was made with {name} = "
                f"{found['settings'].get(name)}, now it is {value}; remove its line, or use "
                "another --results"
            )
    return found


def write(run: Run, folder: Path, found: dict[str, Any]) -> None:
    _results.write(folder, run.name, found)
