"""Pickles of the dtypes of keys, which JAX cannot write: they hold a generator's functions."""

import copyreg
import pickle
from collections.abc import Callable
from typing import Any

import jax

from ._keys import impl_of, key


def _reduce(dtype: Any) -> tuple[Callable[[str], Any], tuple[str]]:
    name = str(impl_of(jax.ShapeDtypeStruct((), dtype)))
    if _dtype_of(name) != dtype:
        raise pickle.PicklingError(f"keys of the generator {name} are not known by its name")
    return _dtype_of, (name,)


def _dtype_of(generator: str) -> Any:
    return jax.eval_shape(lambda: key(0, generator=generator)).dtype


def allow_pickled_keys() -> None:
    """Let `pickle` write the dtypes of keys, in the whole process."""
    copyreg.pickle(type(_dtype_of("mix32")), _reduce)
