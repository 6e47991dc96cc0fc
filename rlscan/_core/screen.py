"""What reaches the terminal: text without control characters, until its reader leaves."""

import contextlib
import os
import sys


def printable(text: str) -> str:
    """Write out control characters, such as the escape codes of a terminal; line ends stay."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def message_of(error: BaseException) -> str:
    """The message of an error in one line, whatever its class does."""
    try:
        text = str(error)
    except Exception:  # a bug in the class of the error must not hide the error
        text = "its message cannot be shown"
    return printable(" ".join(text.split()))


def discard_stdout() -> None:
    """Send further output nowhere. Python flushes it on exit, which would fail on a closed pipe."""
    with contextlib.suppress(OSError, ValueError):  # it has no file descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
