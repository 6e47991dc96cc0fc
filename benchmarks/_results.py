"""The results that a study keeps: one file of JSON in a folder, with one line for each cell.

A line of its own keeps changes readable: a cell that is measured again changes one line.
"""

import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from rlscan._core.files import write_whole

FILE = "results.json"


def read(folder: Path) -> dict[str, Any]:
    """All cells of a study by name; none if the folder has no results yet.

    **Raises:** `ValueError` if the file is damaged.
    """
    file = folder / FILE
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{file} is not JSON with a line for each cell: {error}") from None


def write(folder: Path, name: str, content: Any) -> None:
    """Add a cell, or replace it. A reader sees the file as it was before or as it is afterwards.

    Processes that write different cells of a study at once wait for each other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{FILE}.lock"):
        found = {**read(folder), name: content}
        lines = [f"{json.dumps(key)}: {json.dumps(found[key])}" for key in sorted(found)]
        write_whole(folder / FILE, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
