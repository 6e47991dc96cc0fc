"""What a worker says to the harness: lines of JSON. Needs nothing but the standard library.

In comes the workload, then `{"go": SEED}` for each run. Out goes `{"ready": {…}}` after compiling
and one run that is not counted, then `{"seconds": …, "return": …}` for each run; or
`{"cannot": REASON}`. Between two runs a worker waits for its next line, and leaves the machine to
the others.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, TextIO


class Cannot(Exception):
    """Why a library cannot do a workload."""


@dataclass
class Program:
    """A workload, compiled by one library."""

    run: Callable[[int], Any]
    """One training run with a seed, from new parameters. Comes back when all is computed."""
    score: Callable[[Any], float]
    """The mean return of what `run` gave: 128 whole episodes, actions sampled. Not timed."""
    gradient_steps: int
    """Of one run and seed; a step of two optimisers on one minibatch counts once."""
    network: str
    compile_s: float | None = None
    """Tracing and compiling; `None` where there is none, or none apart from running."""
    warm_up: Callable[[], Any] | None = None
    """What precedes the first timed run; a whole run if not given."""
    notes: list[str] = field(default_factory=list)
    """Where the work is not the same."""


def serve(make: Callable[[dict], Program]) -> None:
    """Answers the harness until it closes the pipe.

    **Arguments:**

    - `make`: gives the program of a workload, a dict as `Workload.as_message` has it, or raises
        `Cannot`.
    """
    replies = _take_stdout()
    workload = json.loads(sys.stdin.readline())
    try:
        program = make(workload)
    except Cannot as reason:
        _send(replies, {"cannot": str(reason)})
        return
    start = time.perf_counter()
    program.warm_up() if program.warm_up else program.run(0)
    about = {
        "compile_s": program.compile_s,
        "first_s": time.perf_counter() - start,
        "versions": {name: version(name) for name in workload["packages"]},
        "gradient_steps": program.gradient_steps,
        "network": program.network,
        "notes": program.notes,
    }
    _send(replies, {"ready": about})
    for line in sys.stdin:
        start = time.perf_counter()
        trained = program.run(json.loads(line)["go"])
        seconds = time.perf_counter() - start
        _send(replies, {"seconds": seconds, "return": program.score(trained)})


def _take_stdout() -> TextIO:
    """Stdout, for the replies alone: what else is printed there goes to stderr from now on."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


def _send(replies: TextIO, message: dict) -> None:
    print(json.dumps(message), file=replies, flush=True)
