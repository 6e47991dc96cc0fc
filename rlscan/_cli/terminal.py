"""Exit statuses and one-line errors, shared by all commands."""

import argparse
import errno
import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .._core.garbage import rare_garbage_collection
from .._core.screen import discard_stdout, message_of, printable

# Exit statuses. `DIVERGED` means that a loss, a gradient or a parameter was not finite; the policy
# from before that update is kept. The number of a signal is added to `SIGNALLED`.
FAILED, BAD_INPUT, DIVERGED, SIGNALLED = 1, 2, 3, 128


def fail(error: Exception | str, status: int) -> int:
    """Print an error to stderr, in one line. Returns `status`."""
    text = error if isinstance(error, str) else message_of(error)
    print("error:", printable(" ".join(text.split())), file=sys.stderr)
    return status


def fail_to_write(error: OSError) -> int:
    """Report a file that could not be written. Files that cannot be read are bad input."""
    what = f"cannot write {error.filename or 'output'}: {error.strerror}"
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return fail(f"{what}; {'make room there, or ' * is_full}write elsewhere", FAILED)


def command(main: Callable[..., int]) -> Callable[..., int]:
    """Decorate a command, so that it ends quietly if the reader of its output leaves.

    That is what `head` does. The status is that of a program which the signal of a closed pipe
    ends.
    """

    @functools.wraps(main)
    def until_the_reader_leaves(*arguments: Any, **options: Any) -> int:
        try:
            try:
                return main(*arguments, **options)
            finally:
                sys.stdout.flush()  # otherwise Python does so on exit, and prints what fails
        except BrokenPipeError:
            discard_stdout()
            return SIGNALLED + signal.SIGPIPE
        except OSError as error:
            discard_stdout()
            return fail_to_write(OSError(error.errno, error.strerror, "standard output"))

    return until_the_reader_leaves


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that reports an error in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {printable(message)}\n")


def report(work: Callable[[], object]) -> int:
    """Do the work of a command, and report an error in one line. Returns the exit status."""
    try:
        with rare_garbage_collection():
            work()
    except (ValueError, FileExistsError, ModuleNotFoundError) as error:
        return fail(error, BAD_INPUT)
    except KeyboardInterrupt:
        return fail("interrupted", SIGNALLED + signal.SIGINT)
    except BrokenPipeError:
        raise
    except OSError as error:
        return fail_to_write(error)
    return 0


def check_counts(options: argparse.Namespace, *names: str) -> None:
    """Raise `ValueError` unless these options are positive integers of int32, or were not given."""
    for name in names:
        number = getattr(options, name)
        if number is not None and not 1 <= number < 2**31:
            raise ValueError(
                f"--{name.replace('_', '-')} must be a positive integer, at most {2**31 - 1}, "
                f"got {number}"
            )


def check_new_file(
    path: str, suffixes: Sequence[str], *, overwrite: bool, option: str = "--output"
) -> None:
    """Raise `ValueError` if a file cannot be created, before the work that fills it."""
    file = Path(path)
    try:
        file.lstat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # ValueError: no file can have such a name
        reason = getattr(error, "strerror", error)
        raise ValueError(f"{option} {path} cannot be written: {reason}; write elsewhere") from None
    if file.suffix.lower() not in suffixes:
        raise ValueError(f"{option} must end in {_either(suffixes)}, got {path}")
    if not file.parent.is_dir():
        raise ValueError(f"{option} {path} is in no directory that exists; make {file.parent}")
    if file.is_dir() or (os.path.lexists(file) and not overwrite):
        raise ValueError(f"{path} exists already; choose another {option}, or add --overwrite")


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
