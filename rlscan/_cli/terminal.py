"""Exit statuses and one-line errors, shared by all commands."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from .._core.garbage import rare_garbage_collection

# Exit statuses. `DIVERGED` means that a loss, a gradient or a parameter was not finite; the policy
# from before that update is kept. The number of a signal is added to `SIGNALLED`.
FAILED, BAD_INPUT, DIVERGED, SIGNALLED = 1, 2, 3, 128


def fail(error: Exception | str, status: int) -> int:
    """Print an error to stderr, in one line. Returns `status`."""
    print("error:", " ".join(str(error).split()), file=sys.stderr)
    return status


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that reports an error in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {message}\n")


def report(work: Callable[[], object]) -> int:
    """Do the work of a command, and report an error in one line. Returns the exit status."""
    try:
        with rare_garbage_collection():
            work()
    except (ValueError, FileExistsError, ModuleNotFoundError) as error:
        return fail(error, BAD_INPUT)
    except KeyboardInterrupt:
        return fail("interrupted", SIGNALLED + signal.SIGINT)
    except OSError as error:
        what = f"cannot write {error.filename or 'output'}: {error.strerror}"
        return fail(f"{what}; make room there, or write elsewhere", FAILED)
    return 0


def check_new_file(
    path: str, suffixes: Sequence[str], *, overwrite: bool, option: str = "--output"
) -> None:
    """Raise `ValueError` if a file cannot be created, before the work that fills it."""
    file = Path(path)
    if file.suffix.lower() not in suffixes:
        raise ValueError(f"{option} must end in {' or '.join(suffixes)}, got {path}")
    if not file.parent.is_dir():
        raise ValueError(f"{option} {path} is in no directory that exists; make {file.parent}")
    if file.is_dir() or (os.path.lexists(file) and not overwrite):
        raise ValueError(f"{path} exists already; choose another {option}, or add --overwrite")
