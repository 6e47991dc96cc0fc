"""The command line: `rlscan train --config FILE`."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from ._config import parse
from ._run import INTERRUPTED, prepare, run
from ._version import __version__

FAILED, BAD_INPUT = 1, 2  # exit statuses


def main(argv: Sequence[str] | None = None) -> int:
    """The console command `rlscan`. Returns its exit status."""
    parser = _Parser(prog="rlscan", description="Jitted rollouts of stochastic Equinox policies.")
    parser.add_argument("--version", action="version", version=f"rlscan {__version__}")
    parser.add_argument("command", choices=COMMANDS, help="`rlscan COMMAND --help` says more")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command")
    arguments = parser.parse_args(argv)
    return COMMANDS[arguments.command](arguments.arguments, prog=f"rlscan {arguments.command}")


def train_main(argv: Sequence[str] | None = None, *, prog: str = "train.py") -> int:
    """`rlscan train` and `scripts/train.py`. Returns the exit status."""
    try:
        try:
            config = parse(sys.argv[1:] if argv is None else argv, prog=prog)
            prepared = prepare(config)
        except (ValueError, TypeError) as error:
            return _fail(error, BAD_INPUT)
        return run(config, *prepared)
    except OSError as error:
        return _fail(f"cannot write {error.filename or 'output'}: {error.strerror}", FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)


COMMANDS = {"train": train_main}


def _fail(error: Exception | str, status: int) -> int:
    """One line on stderr, whatever the message."""
    print("error:", " ".join(str(error).split()), file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {message}\n")
