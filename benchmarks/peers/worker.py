"""`Worker`: a library's process, seen from the harness; `workers/protocol.py` is the other side."""

import json
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

READY_SECONDS = 1_800.0
RUN_SECONDS = 1_800.0
LAST_WORDS_SECONDS = 10.0


class Unable(Exception):
    """A library cannot do a workload; the message is the reason."""


class Worker:
    """A process that has compiled a workload and waits on its stdin between runs."""

    def __init__(
        self,
        command: Sequence[str],
        workload: dict,
        *,
        ready_seconds: float = READY_SECONDS,
        run_seconds: float = RUN_SECONDS,
    ):
        """Start the process and wait until it is ready.

        **Raises:** `Unable` if it cannot do the workload, crashes, or does not reply in time.
        """
        self._run_seconds = run_seconds
        with ExitStack() as stack:
            self._errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )
            stack.pop_all()
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.about: dict[str, Any] = self._ask(workload, ("ready",), ready_seconds)["ready"]
        except BaseException:
            self.close()
            raise

    def run(self, seed: int) -> dict[str, Any]:
        """Train once: `seconds`, `return`, and `returns`, one for each seed. Raises `Unable`."""
        return self._ask({"go": seed}, ("seconds", "return"), self._run_seconds)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            try:
                stream.close()  # type: ignore[union-attr]
            except BrokenPipeError:  # nobody is left to read the rest
                pass

    def _ask(self, message: dict, wanted: tuple[str, ...], seconds: float) -> dict:
        try:
            print(json.dumps(message), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            pass  # it has ended; the reason is read below
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise Unable(f"no reply in {seconds:g} s") from None
        if not line:
            raise Unable(self._last_words())
        try:
            reply = json.loads(line)
        except ValueError:
            reply = None
        if isinstance(reply, dict) and "cannot" in reply:
            raise Unable(str(reply["cannot"]))
        if not isinstance(reply, dict) or not all(key in reply for key in wanted):
            raise Unable(f"replied {line.strip()[:80]!r}, where {' and '.join(wanted)} was wanted")
        return reply

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")  # the end

    def _last_words(self) -> str:
        """The last line on stderr of a process that has closed its stdout."""
        try:
            status = self._process.wait(LAST_WORDS_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its output, and went on"
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        if status < 0:
            return f"ended by {signal.Signals(-status).name}"
        return lines[-1] if lines else f"ended with status {status} and without a word"
