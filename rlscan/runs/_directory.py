"""The directory of a training run: its config, its metrics, its policy."""

import csv
import errno
import importlib.metadata
import io
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
from filelock import FileLock, Timeout

from .._core.files import append, remove_temporaries, reserve, write_whole
from ..ppo._metrics import METRICS
from ._build import members
from ._checkpoint import DIRECTORY, checkpoint_files
from ._config import Config, to_yaml
from ._policy_file import POLICY_FILE

CONFIG_FILE = "config.yaml"


METRICS_FILES = ("metrics.csv", "metrics.jsonl")


LOCK_FILE = ".lock"


COLUMNS = {
    "update": "how many updates were made, this one included",
    "step": "environment steps so far, over all environments",
    "seconds": "of training so far, compilation not included",
    "steps_per_second": "since the last row",
    **METRICS,
}
"""What the columns of the metrics are. Of the metrics of updates, those of episodes are over all
that ended since the last row; the others are of the row's own update. Of several runs side by side
each has rows of its own, which begin with its number `run`, its `seed`, and the keys that are
swept."""


def check_output(output: str) -> None:
    """Raises `ValueError` if a run cannot be written there. Writes nothing."""
    path = Path(output)
    for name in (CONFIG_FILE, *METRICS_FILES, INFO_FILE, POLICY_FILE.parent):
        if os.path.lexists(path / name):
            raise ValueError(
                f"output {output} holds another run (its {name}); "
                "choose another --output, or remove it"
            )
    nearest = path
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    if not nearest.is_dir():
        what = "a link to nothing" if nearest.is_symlink() else "a file"
        raise ValueError(
            f"output {output} must be a directory, but {nearest} is {what}; choose another --output"
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"output {output} cannot be made: {nearest} is not writable")


@contextmanager
def claim(config: Config, sizes: Mapping[str, int]) -> Iterator[dict[str, Path]]:
    """A run directory, with the config in it and room for what will be saved at the end.

    If there are no results in it when the block ends, what was made is taken away again: it would
    stand in the way of the next attempt.

    **Arguments:**

    - `config`: of the run, with `output` set.
    - `sizes`: of files in `checkpoints` that are to have room, in bytes.

    **Returns:** a context, of the rooms by the same names, see `reserve`.

    **Raises:** `ValueError` if another run has the directory, or it cannot be written.
    """
    output = str(config.output)
    check_output(output)
    path = Path(output)
    with ExitStack() as lock, ExitStack() as undo, ExitStack() as room:
        try:
            for directory in (*reversed(path.parents), path):
                _make_directory(directory, undo)
            lock.enter_context(locked(path))
            undo.callback((path / LOCK_FILE).unlink, missing_ok=True)
            _fill(path, config, undo)
            rooms = room.enter_context(reserved(path, sizes))
        except (FileExistsError, BlockingIOError):
            raise ValueError(
                f"output {output} holds another run; choose another --output, or remove it"
            ) from None
        except OSError as error:
            raise ValueError(f"output {output} cannot be written: {error.strerror}") from None
        try:
            yield rooms
        finally:
            if _has_results(path):
                undo.pop_all()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Of all processes one is in here, for each run directory; however it ends, it is out then.

    **Raises:** `BlockingIOError` if another one is.
    """
    lock = FileLock(path / LOCK_FILE, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path)) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def reserved(path: Path, sizes: Mapping[str, int]) -> Iterator[dict[str, Path]]:
    """Room in the `checkpoints` of a run directory, by name, for as many bytes each."""
    directory = path / DIRECTORY
    remove_temporaries(directory)
    rooms: dict[str, Path] = {}
    try:
        for name, num_bytes in sizes.items():
            rooms[name] = reserve(directory / name, num_bytes)
        yield rooms
    finally:
        for room in rooms.values():
            room.unlink(missing_ok=True)


def _fill(path: Path, config: Config, undo: ExitStack) -> None:
    # "x" fails where the file exists: of two runs that start together, one gets it.
    with open(path / CONFIG_FILE, "x", encoding="utf-8") as file:
        undo.callback(os.unlink, path / CONFIG_FILE)
        file.write(to_yaml(config))
    for name in (*METRICS_FILES, INFO_FILE):  # they are made later
        undo.callback((path / name).unlink, missing_ok=True)
    _make_directory(path / DIRECTORY, undo)


def _make_directory(directory: Path, undo: ExitStack) -> None:
    def remove() -> None:
        with suppress(OSError):  # somebody else has put something there
            directory.rmdir()

    if not directory.is_dir():
        directory.mkdir(exist_ok=True)
        undo.callback(remove)


def _has_results(path: Path) -> bool:
    rows = path / METRICS_FILES[1]  # which has no header
    saved = (path / POLICY_FILE).exists() or bool(checkpoint_files(path))
    return saved or (rows.exists() and rows.stat().st_size > 0)


def check_metrics(directory: Path, ends: Mapping[str, int]) -> None:
    """Raises `ValueError` if a metrics file is shorter than it was at a checkpoint."""
    for name, end in ends.items():
        file = directory / name
        size = file.stat().st_size if file.exists() else 0
        if size < end:
            raise ValueError(
                f"{file} has {size} bytes, where {end} were written before the checkpoint; "
                "put it back as it was, and it will be continued"
            )


class MetricsFiles:
    """`metrics.csv` and `metrics.jsonl`, one line per row, there as soon as it is written."""

    def __init__(
        self,
        directory: Path,
        ends: Mapping[str, int] | None = None,
        columns: Sequence[str] = tuple(COLUMNS),
    ):
        """New ones; or those of a checkpoint, with what was written after it taken away.

        **Arguments:**

        - `directory`: of the run.
        - `ends`: how long they were at the checkpoint; for new ones none, or no entries.
        - `columns`: what a row has; those of `COLUMNS` if not given.
        """
        self._columns = columns
        # Unbuffered: what a write returns is what the file took.
        self._files = [open(directory / n, "r+b" if ends else "xb", 0) for n in METRICS_FILES]
        try:
            if not ends:
                append(self._files, [_csv_line(list(columns)), b""])
            for name, file in zip(METRICS_FILES, self._files, strict=True):
                file.seek(file.truncate((ends or self.ends())[name]))
        except OSError:
            self.close()
            raise

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Appends rows. `OSError` if the disk is full; the files are then as they were."""
        as_csv, as_json = [], []
        for row in rows:
            values = {name: row[name] for name in self._columns}
            as_csv.append(_csv_line(list(values.values())))
            # JSON has no NaN
            finite = {n: v if math.isfinite(v) else None for n, v in values.items()}
            as_json.append(json.dumps(finite).encode() + b"\n")
        append(self._files, [b"".join(as_csv), b"".join(as_json)])

    def ends(self) -> dict[str, int]:
        """How long the files are, in bytes."""
        return {n: file.tell() for n, file in zip(METRICS_FILES, self._files, strict=True)}

    def sync(self) -> None:
        for file in self._files:
            os.fsync(file.fileno())

    def close(self) -> None:
        for file in self._files:
            file.close()


def _csv_line(values: list[Any]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue().encode()


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
