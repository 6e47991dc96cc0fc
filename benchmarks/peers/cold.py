"""The cold start: from the shell to the end of a short training run, with imports and compiling.

Each library runs as it ships, by the shortest script that trains it. All have N = 4, T = 128, 4
epochs and 4 minibatches, by default or by an option, so that all make the same steps. The rest
(networks, evaluation, normalisation, output) is the library's own.
"""

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks._timing import commit_of
from benchmarks.peers.contest import Contestant
from benchmarks.peers.libraries import CHECKOUT, RLSCAN, Library
from benchmarks.peers.steady import require
from benchmarks.peers.worker import Unable

NAME = "cold-start"
STEPS, SMOKE_STEPS = 976 * 512, 2 * 512  # the whole updates in 500k steps
GRADIENT_STEPS_OF = 16 / 512  # 4 epochs of 4 minibatches for 512 steps
COLD_BAR, WARM_BAR = 0.75, 0.6
WARM = ", warm cache"
TIMEOUT_SECONDS = 1_800.0


def contestants(
    peers: Sequence[Library], checkout: Path | None, *, steps: int = STEPS
) -> list[Contestant]:
    """Every library as it ships, and again with a warm compilation cache if it is built on JAX."""
    return [
        Contestant(library.name + suffix, partial(_start, library, checkout, steps, bool(suffix)))
        for library in (RLSCAN, *peers)
        for suffix in (("", WARM) if "jax" in library.packages else ("",))
    ]


def _start(library: Library, checkout: Path | None, steps: int, is_warm: bool) -> "Shell":
    require(library, checkout)
    arguments = [str(steps), *([str(checkout)] if library.needs_checkout else [])]
    command = [str(library.interpreter), str(library.script), *arguments]
    if library is RLSCAN:
        command = [str(library.interpreter), str(CHECKOUT / "scripts" / "train.py")]
        command += [
            "--policy.dropout",
            "0",
            "--ppo.value-clip-range",
            "0.2",
            "--total-steps",
            str(steps),
            "--output",
        ]
    about = {
        "versions": _versions(library),
        "gradient_steps": int(steps * GRADIENT_STEPS_OF),
        "notes": [f"checkout {commit_of(checkout)}"] if checkout and library.needs_checkout else [],
    }
    return Shell(command, about, is_warm=is_warm, is_ours=library is RLSCAN)


class Shell:
    """A command that is timed from start to end."""

    def __init__(
        self, command: Sequence[str], about: dict[str, Any], *, is_warm: bool, is_ours: bool = False
    ):
        """Run it once without timing, to write byte code and to fill a warm cache.

        **Arguments:**

        - `command`: a command that ends by itself.
        - `about`: the description for its row.
        - `is_warm`: whether runs find the compilation cache of earlier runs, or an empty one.
        - `is_ours`: whether it is rlscan's, which needs a new directory and has its own cache.
        """
        self._command, self._is_warm, self._is_ours = command, is_warm, is_ours
        self._kept = tempfile.TemporaryDirectory()
        try:
            first = self.run(0)
        except BaseException:
            self.close()
            raise
        self.about = {**about, "compile_s": None, "first_s": first["seconds"]}

    def run(self, seed: int) -> dict[str, Any]:
        """Run it: the seconds, and the return in its last line, if any. Raises `Unable`."""
        del seed  # each script has a fixed seed
        with tempfile.TemporaryDirectory() as fresh:
            command = [*self._command, *([f"{fresh}/run"] if self._is_ours else [])]
            start = time.perf_counter()
            try:
                done = subprocess.run(
                    command,
                    env=self._environment(self._kept.name if self._is_warm else fresh),
                    capture_output=True,
                    text=True,
                    timeout=TIMEOUT_SECONDS,
                )
            except subprocess.TimeoutExpired:
                raise Unable(f"not done in {TIMEOUT_SECONDS:g} s") from None
            seconds = time.perf_counter() - start
        if done.returncode:
            raise Unable((done.stderr.strip() or f"ended with {done.returncode}").splitlines()[-1])
        last = (done.stdout.strip() or "-").splitlines()[-1]
        found = re.search(r"return (-?\d+(?:\.\d+)?)", last)
        return {"seconds": seconds, "return": float(found[1]) if found else None}

    def close(self) -> None:
        self._kept.cleanup()

    def _environment(self, cache: str) -> dict[str, str]:
        """The environment of a shell that nobody has tuned, with a separate cache.

        Only JAX's compilations are separate. Byte code, and the list of fonts that matplotlib
        makes (gymnax imports it), are kept in any case.
        """
        inherited = {name: value for name, value in os.environ.items() if not _is_tuned(name)}
        own = {"MPLCONFIGDIR": f"{self._kept.name}/matplotlib", "XDG_CACHE_HOME": cache}
        asked_for = {
            "JAX_COMPILATION_CACHE_DIR": f"{cache}/jax",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        return {**inherited, **own, **(asked_for if self._is_warm and not self._is_ours else {})}


def _is_tuned(variable: str) -> bool:
    return "COMPILATION_CACHE" in variable or variable == "PYTHONDONTWRITEBYTECODE"


def _versions(library: Library) -> dict[str, str]:
    program = (
        "import json, sys; from importlib.metadata import version; "
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    command = [str(library.interpreter), "-c", program, *library.packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unable(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout)
