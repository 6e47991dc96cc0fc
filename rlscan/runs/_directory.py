"""The directory of a run: its files, and the process that may write to it."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .._core.files import remove_temporaries, reserve
from ._checkpoint import DIRECTORY, checkpoint_files
from ._info import INFO_FILE
from ._metrics_files import METRICS_FILES
from ._policy_file import POLICY_FILE

CONFIG_FILE = "config.yaml"
LOCK_FILE = ".lock"


def check_output(output: str | os.PathLike) -> None:
    """Raise `ValueError` if a new run cannot be written to a directory. Nothing is written."""
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
        what = "a broken link" if nearest.is_symlink() else "a file"
        raise ValueError(
            f"output {output} must be a directory, but {nearest} is {what}; choose another --output"
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"output {output} cannot be created: {nearest} is not writable")


def holds_run(directory: Path) -> bool:
    """Whether a directory holds a run that can be resumed."""
    names = (CONFIG_FILE, *METRICS_FILES, INFO_FILE)
    return any((directory / name).is_file() for name in names) or bool(checkpoint_files(directory))


@contextmanager
def claim(
    output: str | os.PathLike, config: str | None, sizes: Mapping[str, int]
) -> Iterator[dict[str, Path]]:
    """Make a run directory for this process alone, with its config and reserved space.

    If it holds no results when the block ends, everything made here is removed again, because
    otherwise the next attempt would be refused.

    **Arguments:**

    - `output`: the directory.
    - `config`: the text of its config file; `None` for none.
    - `sizes`: the bytes to reserve in `checkpoints`, by file name.

    **Returns:** a context manager that gives the reserved files by the same names, see `reserve`.

    **Raises:** `ValueError` if the directory holds another run, or cannot be written.
    """
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
    """Hold an exclusive lock on a run directory. It ends with the process at the latest.

    **Raises:** `BlockingIOError` if another process holds it.
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
    """Reserve space in the `checkpoints` of a run directory, in bytes by name."""
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


def _fill(path: Path, config: str | None, undo: ExitStack) -> None:
    for name in (*METRICS_FILES, INFO_FILE):  # the block makes them
        undo.callback((path / name).unlink, missing_ok=True)
    if config is not None:
        # "x" fails if the file exists: of two runs that start together, one gets the directory.
        with open(path / CONFIG_FILE, "x", encoding="utf-8") as file:
            undo.callback(os.unlink, path / CONFIG_FILE)
            file.write(config)
    _make_directory(path / DIRECTORY, undo)


def _make_directory(directory: Path, undo: ExitStack) -> None:
    def remove() -> None:
        with suppress(OSError):  # it is not empty: something else was put there
            directory.rmdir()

    if not directory.is_dir():
        directory.mkdir(exist_ok=True)
        undo.callback(remove)


def _has_results(path: Path) -> bool:
    rows = path / METRICS_FILES[1]  # this one has no header, so a row makes it non-empty
    saved = (path / POLICY_FILE).exists() or bool(checkpoint_files(path))
    return saved or (rows.exists() and rows.stat().st_size > 0)
