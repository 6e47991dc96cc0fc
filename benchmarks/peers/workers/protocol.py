"""The protocol between a worker and the harness: lines of JSON. Needs only the standard library.

The worker reads the workload, then `{"go": SEED}` for each run. It replies `{"ready": {…}}` after
compiling, and after one run that is not counted if runs are timed. Then it replies `{"seconds": …,
"return": …, "returns": […]}` to each run, with the returns of its seeds and their mean; or
`{"cannot": REASON}`. Between two runs a worker waits for its next line, so that the others have the
machine.
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
    """A library cannot do a workload; the message is the reason."""


@dataclass
class Program:
    """A workload that is compiled by one library."""

    run: Callable[[int], Any]
    """Trains once with a seed, from new parameters. Returns when everything is computed."""
    scores: Callable[[Any], list[float]]
    """For each seed, the mean return of the trained policy over 128 whole episodes, with sampled
    actions. Not timed."""
    gradient_steps: int
    """For one run and seed; a step of two optimisers on one minibatch counts once."""
    network: str
    compile_s: float | None = None
    """Seconds of tracing and compiling; `None` if they cannot be separated from running."""
    warm_up: Callable[[], Any] | None = None
    """Called before the first timed run; by default a whole run."""
    notes: list[str] = field(default_factory=list)
    """Differences from the workload."""


def serve(make: Callable[[dict], Program]) -> None:
    """Answer the harness until it closes the pipe.

    **Arguments:**

    - `make`: makes the program of a workload, a dict from `Workload.as_message`, or raises
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
    if workload.get("is_timed", True):
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
        returns = program.scores(trained)
        mean = sum(returns) / len(returns)
        _send(replies, {"seconds": seconds, "return": mean, "returns": returns})


def _take_stdout() -> TextIO:
    """Reserve stdout for the replies: from now on, all other output goes to stderr."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


def _send(replies: TextIO, message: dict) -> None:
    print(json.dumps(message), file=replies, flush=True)
