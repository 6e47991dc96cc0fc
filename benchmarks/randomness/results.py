"""The file of a run, which grows with it, so that a run that was stopped goes on."""

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks._timing import circumstances
from benchmarks.randomness.runs import Run
from benchmarks.randomness.streams import draw


class MadeOtherwiseError(ValueError):
    """A file of results that this run cannot go on with."""


def read(run: Run, folder: Path) -> dict[str, Any] | None:
    path = run.path(folder)
    return json.loads(path.read_text()) if path.exists() else None


def read_or_start(run: Run, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What there is of a run, or its beginning.

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
                f"{run.path(folder)} was made with {name} = {found['settings'].get(name)}, "
                f"now it is {value}; remove the file, or use another --results"
            )
    return found


def write(run: Run, folder: Path, found: dict[str, Any]) -> None:
    """The whole file or nothing, however it ends. A test is a line, so that changes can be read."""
    head = [f'"{key}": {json.dumps(value)}' for key, value in found.items() if key != "tests"]
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found["tests"].items()]
    tests = '"tests": {\n' + ",\n".join(lines) + "\n}"
    path = run.path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text("{\n" + ",\n".join([*head, tests]) + "\n}\n")
    os.replace(unfinished, path)
