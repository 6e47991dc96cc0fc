"""The command line: `rlscan train --config FILE`, and what looks at the run afterwards."""

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from jax.errors import JaxRuntimeError

from .._core.garbage import rare_garbage_collection
from .._rollout.audit import AuditError
from .._version import __version__
from ..ppo._finite import DivergenceError
from ..runs._config import Config
from ..runs._directory import check_output
from ..runs._footprint import check_memory, dry_run
from ..runs._parse import parse
from ..runs._prepare import prepare
from ..runs._resume import config_to_resume
from ..runs._run import on_this_machine, run
from .evaluate import evaluate_main
from .plot import plot_main
from .render import render_main
from .terminal import BAD_INPUT, DIVERGED, FAILED, SIGNALLED, Parser, fail


def main(argv: Sequence[str] | None = None) -> int:
    """The console command `rlscan`. Returns its exit status."""
    parser = Parser(prog="rlscan", description="Jitted rollouts of stochastic Equinox policies.")
    parser.add_argument("--version", action="version", version=f"rlscan {__version__}")
    parser.add_argument("command", choices=COMMANDS, help="`rlscan COMMAND --help` says more")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command")
    arguments = parser.parse_args(argv)
    return COMMANDS[arguments.command](arguments.arguments, prog=f"rlscan {arguments.command}")


def train_main(argv: Sequence[str] | None = None, *, prog: str = "train.py") -> int:
    """`rlscan train` and `scripts/train.py`. Returns the exit status."""
    with _stop_signals() as signals, rare_garbage_collection():
        try:
            return _train(sys.argv[1:] if argv is None else argv, prog, signals)
        except OSError as error:
            what = f"cannot write {error.filename or 'output'}: {error.strerror}"
            return fail(f"{what}; make room there, or write elsewhere", FAILED)
        except AuditError as error:
            return fail(error, FAILED)
        except DivergenceError as error:
            return fail(error, DIVERGED)
        except KeyboardInterrupt:
            return fail("interrupted", SIGNALLED + (signals or [signal.SIGINT])[0])
        except (MemoryError, JaxRuntimeError) as error:
            if isinstance(error, JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            sizes = "ppo.num_envs, ppo.num_steps or policy.hidden_sizes"
            return fail(f"not enough memory, {error}; use smaller {sizes}", FAILED)


def _train(argv: Sequence[str], prog: str, signals: Sequence[int]) -> int:
    with ExitStack() as stack:
        try:
            options, rest = _options(argv)
            if options.resume is None:
                config = on_this_machine(parse(rest, prog=prog))
            else:
                config = on_this_machine(config_to_resume(options.resume, rest, prog=prog))
            if options.dry_run:
                return _dry_run(config, is_new=options.resume is None)
            command = [*prog.split(), *argv]
            prepared = stack.enter_context(prepare(config, options.resume, command=command))
        except (ValueError, TypeError) as error:
            return fail(error, BAD_INPUT)
        # Outside of the above: here such an error is none of the input, and keeps its traceback.
        finished = run(config, prepared, signals)
    return 0 if finished else SIGNALLED + signals[0]


def _options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """`(options, rest)`: the options that are no part of a config."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--resume")
    parser.add_argument("--dry-run", "--dry_run", action="store_true")
    try:
        return parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None


def _dry_run(config: Config, *, is_new: bool) -> int:
    """Says what a run would take, and refuses what would not fit. Writes nothing."""
    if is_new:
        check_output(str(config.output))
    for line in dry_run(config):
        print(line)
    check_memory(config)
    return 0


COMMANDS = {
    "train": train_main,
    "evaluate": evaluate_main,
    "plot": plot_main,
    "render": render_main,
}


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The signals that asked the program to stop, as they come: Ctrl-C, and SIGTERM of a cluster.

    They are noted, not raised: an exception in a callback, such as JAX has in the garbage
    collector, is printed and lost. Only the second Ctrl-C raises, for whoever cannot wait; a second
    SIGTERM does not, since `timeout` may send two.
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number == signal.SIGINT in received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number in heard:
            signal.signal(number, before[number])
