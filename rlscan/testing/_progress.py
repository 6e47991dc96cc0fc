"""`Progress`: a line for each stage of a check that takes long."""

import sys
import threading
from typing import Any

_PATIENCE = 10.0  # seconds


class Progress:
    """A context that prints the current stage to stderr after ten seconds, and each one after."""

    def __init__(self, name: str):
        self._name, self._stage, self._is_late = name, "", False
        self._timer = threading.Timer(_PATIENCE, self._be_late)
        self._timer.daemon = True

    @property
    def stage(self) -> str:
        """What is being done."""
        return self._stage

    @stage.setter
    def stage(self, stage: str) -> None:
        self._stage = stage
        if self._is_late:
            self._say()

    def _be_late(self) -> None:
        self._is_late = True
        self._say()

    def _say(self) -> None:
        print(f"{self._name} takes a while: {self._stage}", file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        self._timer.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._timer.cancel()
