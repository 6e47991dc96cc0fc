"""`Program`: a function traced for known shapes, and compiled later."""

import time
from collections.abc import Callable

import equinox as eqx
import jax

from .._core.tree import ArrayFunction, is_shape
from .._core.types import PyTree


class Program:
    """A function that is traced when this is made, from the shapes of its arguments alone.

    Tracing one program while XLA compiles another shortens a cold start.
    """

    seconds: float  # spent on tracing, and on compiling once that is done

    def __init__(self, function: Callable[..., PyTree], *arguments: PyTree):
        """Trace a function.

        **Arguments:**

        - `function`: takes and returns pytrees; whatever is not an array in them is static.
        - `arguments`: arrays, or `jax.ShapeDtypeStruct` in their places.
        """
        started = time.monotonic()
        self._function = ArrayFunction(function, arguments, is_shape)
        # The name that profiles and cached programs show.
        self._function.__name__ = getattr(function, "func", function).__name__.removeprefix("_")
        self._lowered = jax.jit(self._function).lower(*self._function.arrays)
        self.seconds = time.monotonic() - started

    @property
    def result(self) -> PyTree:
        """The result, with `jax.ShapeDtypeStruct` in the place of arrays."""
        return self._function.merge(self._lowered.out_info)

    def compile(self) -> Callable[..., PyTree]:
        """Compile the function for arrays of these shapes.

        The compiled function returns when its work is done: if memory runs out, waiting for all
        results raises, but `jax.device_get` of some of them waits for ever (JAX 0.10).
        """
        started = time.monotonic()
        compiled = self._lowered.compile()
        self.seconds += time.monotonic() - started

        def call(*arguments: PyTree) -> PyTree:
            result = compiled(*eqx.filter(arguments, eqx.is_array))
            return self._function.merge(jax.block_until_ready(result))

        return call
