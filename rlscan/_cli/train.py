"""`rlscan train`: train a policy from a config."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from jax.errors import JaxRuntimeError

from .._core.garbage import rare_garbage_collection
from .._rollout.audit import AuditError
from ..ppo._finite import DivergenceError
from ..ppo._verdicts import check_divergences
from ..runs._build import members
from ..runs._config import Config
from ..runs._directory import check_output
from ..runs._footprint import check_memory, dry_run
from ..runs._machine import on_this_machine
from ..runs._parse import Command, parse_command
from ..runs._results import write_results
from ..runs._sweep_plan import begin_sweep, finish_sweep, plan
from ..runs._train import follow_config, labels_of, open_run
from .terminal import BAD_INPUT, DIVERGED, FAILED, SIGNALLED, command, fail, fail_to_write


@command
def train_main(argv: Sequence[str] | None = None, *, prog: str = "train.py") -> int:
    """Run `rlscan train` or `scripts/train.py`, and return the exit status."""
    with _stop_signals() as signals, rare_garbage_collection():
        try:
            return _train_all(sys.argv[1:] if argv is None else argv, prog, signals)
        except BrokenPipeError:
            raise
        except OSError as error:
            return fail_to_write(error)
        except KeyboardInterrupt:
            return fail("interrupted", SIGNALLED + (signals or [signal.SIGINT])[0])
        except (MemoryError, JaxRuntimeError) as error:
            if isinstance(error, JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            sizes = "ppo.num_envs, ppo.num_steps or policy.hidden_sizes"
            return fail(f"not enough memory, {error}; use smaller {sizes}", FAILED)


def _train_all(argv: Sequence[str], prog: str, signals: Sequence[int]) -> int:
    """Train what a command line asks for: one program, or one for each shape of a sweep."""
    words = [*prog.split(), *argv]
    try:
        asked = parse_command(argv, prog=prog)
        commands = plan(asked, argv)
        if commands == [asked]:
            return _train(asked, words, signals)
        if asked.resume is None:
            check_output(str(asked.config.output))
        if not asked.dry_run:
            begin_sweep(asked.config)
    except (ValueError, TypeError) as error:
        return fail(error, BAD_INPUT)
    for one in commands:
        status = _train(one, words, signals)
        if status != 0:
            return status
    if not asked.dry_run:
        print(f"{finish_sweep(asked.config, commands)}: the returns of all runs")
    return 0


def _train(asked: Command, words: Sequence[str], signals: Sequence[int]) -> int:
    with ExitStack() as stack:
        try:
            config = on_this_machine(asked.config)
            if asked.dry_run:
                return _dry_run(config, is_new=asked.resume is None)
            opened = open_run(config, asked.resume, command=words, signals=signals)
            run, training = stack.enter_context(opened)
        except (ValueError, TypeError) as error:
            return fail(error, BAD_INPUT)
        # From here on such an error is not the input's fault, and keeps its traceback.
        try:
            was_finished = run.is_finished
            with stack:
                finished = follow_config(config, run, training, signals)
            if finished and len(members(config)) > 1:
                directory = Path(str(config.output))
                write_results(directory, [(directory, labels_of(config), {})])
            if not was_finished and config.algorithm is None:
                check_divergences(training, training.state, debug=config.debug)
        except AuditError as error:
            return fail(_of_runs(error, [] if error.run is None else [error.run], config), FAILED)
        except DivergenceError as error:
            return fail(_of_runs(error, error.runs or [], config), DIVERGED)
    return 0 if finished else SIGNALLED + signals[0]


def _of_runs(error: Exception, runs: Sequence[int], config: Config) -> str:
    """Say which of several runs an error is about, by number and seed."""
    if not runs:
        return str(error)
    which = f"run {runs[0]}, of seed {members(config)[runs[0]].seed}"
    if isinstance(error, AuditError):
        return f"{which}: {error}"
    return f"{len(runs)} of {len(members(config))} runs diverged: {which}, {error}"


def _dry_run(config: Config, *, is_new: bool) -> int:
    """Print what a run would take, and refuse what would not fit. Writes nothing."""
    if is_new:
        check_output(str(config.output))
    for line in dry_run(config):
        print(line)
    check_memory(config)
    return 0


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect the signals that ask the program to stop: Ctrl-C, and SIGTERM from a cluster.

    They are noted, not raised: an exception inside a callback, such as JAX's in the garbage
    collector, is printed and lost. Only a second Ctrl-C raises, for a user who cannot wait, and
    only once, so that what is saved then is saved; if the exception was lost, the next one raises.
    A second SIGTERM does not, because `timeout` may send two.
    """
    received: list[int] = []
    is_raised = [False]

    def note(number: int, frame: Any) -> None:
        if number == signal.SIGINT in received and not is_raised[0]:
            is_raised[0] = True
            raise KeyboardInterrupt
        received.append(number)

    def lose(lost: Any) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            return print_lost(lost)
        is_raised[0] = False

    print_lost, sys.unraisablehook = sys.unraisablehook, lose
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, note)
    try:
        yield received
    finally:
        sys.unraisablehook = print_lost
        for number in heard:
            signal.signal(number, before[number])
