"""Refusals that several rooms make, in the same words."""

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np


def did_you_mean(word: str, known: Any) -> str:
    """`, did you mean A or B?`, or nothing where no known word is near."""
    by_lower = {str(k).lower(): str(k) for k in known}
    near = difflib.get_close_matches(str(word).lower(), by_lower, n=3, cutoff=0.5)
    return f", did you mean {' or '.join(by_lower[n] for n in near)}?" if near else ""


def require_positive(name: str, number: Any) -> None:
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
        raise ValueError(f"{name} must be a positive integer, got {number!r}")


def require_one_of(name: str, choice: Any, choices: Sequence[str]) -> None:
    if choice not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {choice!r}")
