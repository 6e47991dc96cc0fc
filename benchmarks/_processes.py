"""Fresh processes: the cost of a program from the shell."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent

# The process reads its own peak memory. The system's figure for a finished child includes the
# parent that it was forked from, which has all of JAX in memory.
_PRELUDE = """
import atexit, sys
@atexit.register
def report():
    try:
        with open("/proc/self/status") as status:
            peak = [line.split()[1] for line in status if line.startswith("VmHWM")]
    except OSError:
        peak = []
    print("peak kB", *peak, file=sys.stderr)
"""


class Process(NamedTuple):
    """A process that has succeeded."""

    seconds: float  # from its start to its end
    peak_bytes: float  # NaN if the system does not tell
    output: str


def run_python(code: str, environ: Mapping[str, str] | None = None) -> Process:
    """Run code in a new Python, in the root of the checkout.

    **Raises:** `RuntimeError`, with its last output, if it fails.
    """
    command = [sys.executable, "-c", _PRELUDE + code]
    start = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **(environ or {})}
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        said = done.stderr.strip().splitlines()[-5:]
        raise RuntimeError(f"{code!r} ended with status {done.returncode}: " + "\n".join(said))
    peak = done.stderr.rpartition("peak kB")[2].strip()
    return Process(seconds, 1024 * float(peak) if peak else float("nan"), done.stdout)
