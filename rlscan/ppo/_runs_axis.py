"""The axis of runs: in front of every array of several runs, and absent from a single run."""

from collections.abc import Callable
from typing import Any

import equinox as eqx

from .._core.tree import map_arrays
from .._core.types import PyTree


def over_runs(f: Callable[..., Any], axis: tuple[int, ...]) -> Callable[..., Any]:
    """Map a function over the axis of runs, `(R,)`; `()` leaves it as it is."""
    return eqx.filter_vmap(f, in_axes=eqx.if_array(0)) if axis else f


def run_of(tree: PyTree, i: int, axis: tuple[int, ...]) -> PyTree:
    """The arrays of run i."""
    return map_arrays(lambda x: x[i], tree) if axis else tree
