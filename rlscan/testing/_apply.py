"""`apply`: a function under test, compiled once however many checks call it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx


@eqx.filter_jit
def apply(fn: Callable, *args: Any, **kwargs: Any) -> Any:
    """`fn(*args, **kwargs)` under `jit`; numbers, which shape a program, stay Python."""
    return fn(*args, **kwargs)
