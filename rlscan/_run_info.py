"""`run.json`: by what, where and when a run was made."""

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jax

from ._build import members
from ._config import Config
from ._disk import write_whole

INFO_FILE = "run.json"
_PACKAGES = ("rlscan", "jax", "jaxlib", "equinox", "optax", "gymnax", "distrax", "numpy")


def write_info(directory: Path, config: Config, command: Sequence[str], after_update: int) -> None:
    """Adds this process to the `run.json` of a run directory.

    It holds the config's seed, the runs side by side, and `sessions`: one entry for the process
    that began the run, and one for each that resumed it, with its command line, versions, git
    commit of the directory it was started in, devices, and the update after which it began.
    """
    runs = [{"run": i, "seed": m.seed, **m.swept} for i, m in enumerate(members(config))]
    session = {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "after_update": after_update,
        "command": list(command),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
        "devices": [f"{d.platform}: {d.device_kind}" for d in jax.devices()],
    }
    sessions = [*_sessions(directory), session]
    info = {"seed": config.seed, "runs": runs, "sessions": sessions}
    write_whole(directory / INFO_FILE, json.dumps(info, indent=2).encode() + b"\n")


def changed_versions(directory: Path) -> list[str]:
    """What the last session of a run had in other versions than the one before it."""
    sessions = _sessions(directory)
    if len(sessions) < 2:
        return []
    before, now = (one["versions"] for one in sessions[-2:])
    return [f"{n} {before[n]} → {now[n]}" for n in now if before.get(n, now[n]) != now[n]]


def _sessions(directory: Path) -> list[Any]:
    try:
        return list(json.loads((directory / INFO_FILE).read_text(encoding="utf-8"))["sessions"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or what somebody made of it
        return []


def _git_commit() -> str | None:
    """Of the working directory, with `-dirty` where files differ from it."""
    git = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or none here
        return None
    return found.stdout.strip() or None
