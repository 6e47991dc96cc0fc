"""Checks of arguments that several rooms make, with one wording for each error."""

import difflib
import importlib.util
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def is_positive_integer(x: Any) -> bool:
    """Whether `x` is an integer of Python or NumPy, at least 1. A `bool` is not."""
    return isinstance(x, int | np.integer) and not isinstance(x, bool) and bool(x > 0)


def is_rate(x: Any) -> bool:
    """Whether `x` is a Python number in [0, 1). A `bool` is not."""
    return isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x < 1


def require_positive(name: str, number: Any) -> None:
    """Raise `ValueError` unless `number` is a positive integer."""
    if not is_positive_integer(number):
        raise ValueError(f"{name} must be a positive integer, got {number!r}")


def require_rate(name: str, p: Any) -> None:
    """Raise `ValueError` unless `p` is a Python number in [0, 1), such as a dropout rate."""
    if is_rate(p):
        return
    if isinstance(p, int | float):
        raise ValueError(f"{name} must be in [0, 1), got {p!r}; 0 switches it off")
    raise ValueError(
        f"{name} must be a Python number in [0, 1), got {p!r} of type {type(p).__name__}; "
        "0 switches it off"
    )


def require_one_of(name: str, choice: Any, choices: Sequence[str]) -> None:
    """Raise `ValueError` unless `choice` is one of `choices`."""
    if choice not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {choice!r}")


def require_extra(what: str, extra: str, *modules: str) -> None:
    """Raise `ModuleNotFoundError` unless the modules of an optional extra are installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(
                f"{what} need {module}: pip install 'rlscan[{extra}]'", name=module
            )


def did_you_mean(word: str, known: Iterable[Any]) -> str:
    """The text `, did you mean A or B?` for the known words near `word`; empty if none is near."""
    by_lower = {str(k).lower(): str(k) for k in known}
    near = difflib.get_close_matches(str(word).lower(), by_lower, n=3, cutoff=0.5)
    return f", did you mean {' or '.join(by_lower[n] for n in near)}?" if near else ""
