"""Checks of arguments that several rooms make, with one wording for each error."""

import difflib
import importlib.util
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def is_number(x: Any) -> bool:
    """Whether `x` is one real number: of Python or NumPy, or an array of shape `()`.

    A flag is not. An array may be traced.
    """
    if isinstance(x, int | float):
        return not isinstance(x, bool)
    return _is_scalar(x) and any(jnp.issubdtype(x.dtype, k) for k in (jnp.integer, jnp.floating))


def is_flag(x: Any) -> bool:
    """Whether `x` is true or false: of Python or NumPy, or an array of shape `()`."""
    return isinstance(x, bool) or (_is_scalar(x) and x.dtype == bool)


def _is_scalar(x: Any) -> bool:
    return isinstance(x, np.generic | np.ndarray | jax.Array) and x.shape == ()


def is_known(x: Any) -> bool:
    """Whether the values of a number or an array can be looked at: they are not traced."""
    return not isinstance(x, Tracer)


def as_plain(x: Any) -> Any:
    """A number or a flag as Python's own, whether Python, NumPy or JAX holds it.

    All else is returned as it is, traced arrays among it.
    """
    is_one = _is_scalar(x) and is_known(x) and (is_number(x) or is_flag(x))
    return x.item() if is_one else x


def is_positive_integer(x: Any) -> bool:
    """Whether `x` is an integer, at least 1, whatever holds it. A flag is not."""
    x = as_plain(x)
    return isinstance(x, int) and not isinstance(x, bool) and x > 0


def require_positive(name: str, number: Any) -> int:
    """The number as Python's own; `ValueError` unless it is a positive integer."""
    if not is_positive_integer(number):
        raise ValueError(f"{name} must be a positive integer, got {number!r}")
    return int(number)


def require_rate(name: str, p: Any) -> float:
    """The number as Python's own; `ValueError` unless it is in [0, 1), such as a dropout rate."""
    rate = as_plain(p)
    if not isinstance(rate, int | float) or isinstance(rate, bool):
        raise ValueError(
            f"{name} must be a number in [0, 1), got {p!r} of type {type(p).__name__}; "
            "0 switches it off"
        )
    if not 0 <= rate < 1:
        raise ValueError(f"{name} must be in [0, 1), got {rate!r}; 0 switches it off")
    return float(rate)


def require_flag(name: str, flag: Any) -> bool:
    """The flag as Python's own; `ValueError` unless it is true or false."""
    if not (is_flag(flag) and is_known(flag)):
        raise ValueError(f"{name} must be True or False, got {flag!r}")
    return bool(flag)


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
