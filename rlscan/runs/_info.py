"""`run.json`: the software, machine, command and time of each session of a run."""

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jax

from .._core.files import write_whole

INFO_FILE = "run.json"
_PACKAGES = ("rlscan", "jax", "jaxlib", "equinox", "optax", "gymnax", "distrax", "numpy")


def write_info(
    directory: Path, command: Sequence[str], after_update: int, about: Mapping[str, Any]
) -> None:
    """Add this process to the `run.json` of a run directory.

    The file holds `about` and `sessions`: an entry for the process that began the run and for each
    that resumed it, with its command line, versions, the git commit of the directory it was started
    in, its devices, and the update after which it began.
    """
    session = {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "after_update": after_update,
        "command": list(command),
        **_here(),
    }
    info = {**_read(directory), **about, "sessions": [*_sessions(directory), session]}
    write_whole(directory / INFO_FILE, json.dumps(info, indent=2).encode() + b"\n")


def _here() -> dict[str, Any]:
    """The software and the machine of this process."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
        "devices": [f"{d.platform}: {d.device_kind}" for d in jax.devices()],
    }


def differences_from_now(directory: Path) -> list[str]:
    """List in what this process differs from the last session of a run: versions, machine, commit.

    A commit counts only if both are known.
    """
    sessions = _sessions(directory)
    before = _flat(sessions[-1]) if sessions else {}
    now = _flat(_here())
    changed = [n for n, x in now.items() if n in before and before[n] not in (x, None) and x]
    return [f"{name} {before[name]} → {now[name]}" for name in changed]


def _flat(session: Any) -> dict[str, Any]:
    session = session if isinstance(session, dict) else {}
    versions = session.get("versions")
    alone = {name: session.get(name) for name in ("python", "platform", "git_commit", "devices")}
    return {**alone, **(versions if isinstance(versions, dict) else {})}


def changed_versions(directory: Path) -> list[str]:
    """List the packages whose versions differ between the last two sessions of a run."""
    sessions = _sessions(directory)
    if len(sessions) < 2:
        return []
    before, now = (one["versions"] for one in sessions[-2:])
    return [f"{n} {before[n]} → {now[n]}" for n in now if before.get(n, now[n]) != now[n]]


def last_session(directory: Path) -> dict[str, Any]:
    """What `run.json` says of the last process that wrote to a run directory; empty if nothing."""
    found = _sessions(directory)[-1:]
    return found[0] if found and isinstance(found[0], dict) else {}


def _read(directory: Path) -> dict[str, Any]:
    """What the file holds already."""
    try:
        return dict(json.loads((directory / INFO_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # no file, or one edited by hand
        return {}


def _sessions(directory: Path) -> list[Any]:
    found = _read(directory).get("sessions")
    return found if isinstance(found, list) else []


def _git_commit() -> str | None:
    """The commit of the working directory, with `-dirty` if files differ from it."""
    git = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or not a repository
        return None
    return found.stdout.strip() or None
