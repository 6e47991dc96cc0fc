"""`Program`: a function that is traced for known shapes, and compiled once in a process.

Whoever trains again in one process, as tuning loops, notebooks and tests do, builds environments,
policies and functions again, so that `jax.jit` would take each for another program. Here programs
are compared by what was traced, which also notices an attribute that has changed in between.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
from jax.core import eval_context
from jax.extend.core import get_opaque_trace_state

from .program_store import place_for
from .tree import ArrayFunction, is_shape
from .types import PyTree

MOST_KEPT = 32
"""The number of compiled programs that are kept; the least recently used are dropped first."""


class Program:
    """A function that is traced when this is made, from the shapes of its arguments alone.

    Tracing one program while XLA compiles another shortens a cold start.
    """

    seconds: float  # spent on tracing, and on compiling once that is done
    result: PyTree  # the result, with `jax.ShapeDtypeStruct` in the place of arrays

    def __init__(
        self, function: Callable[..., PyTree], *arguments: PyTree, stored_as: str | None = None
    ):
        """Trace a function, unless its program is stored.

        **Arguments:**

        - `function`: takes and returns pytrees; whatever is not an array in them is static.
        - `arguments`: arrays, or `jax.ShapeDtypeStruct` in their places.
        - `stored_as`: the name of the program within `stored_programs`. It must say what the
            program is, because only the shapes of the arguments are compared beside it.
        """
        started = time.monotonic()
        self._call: Any = None  # once it is compiled
        self._key: Hashable = _kinds(arguments)
        self._place = None if stored_as is None else place_for(stored_as, self._key)
        found = None if self._place is None else self._place.read()
        if found is None:
            self._trace(function, arguments)
        else:
            self._call, self.result = found
        self.seconds = time.monotonic() - started

    def _trace(self, function: Callable[..., PyTree], arguments: tuple[PyTree, ...]) -> None:
        of_arrays = ArrayFunction(function, arguments, is_shape)
        leaves, structure = jax.tree.flatten(of_arrays.arrays)
        structures: list[Any] = []  # of the result, set by the trace

        # Lists of arrays, because a compiled program is called for equal structures alone.
        def flat(*leaves: Any) -> list[Any]:
            result = of_arrays(*jax.tree.unflatten(structure, leaves))
            arrays, structures[:] = jax.tree.leaves(result), [jax.tree.structure(result)]
            return arrays

        # The name that profiles and cached programs show.
        named = getattr(function, "func", function)
        flat.__name__ = getattr(named, "__name__", "program").removeprefix("_")
        # Unused arguments are kept, because which were dropped is not seen in the program's text.
        self._lowered: Any = jax.jit(flat, keep_unused=True).lower(*leaves)
        self._key = self._key, tuple(map(_kind, self._lowered.out_info))
        self.result = of_arrays.merge(jax.tree.unflatten(structures[0], self._lowered.out_info))

    def compile(self) -> Callable[..., PyTree]:
        """Compile the function for arrays of these shapes, unless an equal program was compiled.

        The compiled function returns when its work is done: if memory runs out, waiting for all
        results raises, but `jax.device_get` of some of them waits for ever (JAX 0.10).
        """
        started = time.monotonic()
        if self._call is None:
            self._call = self._compiled()
        self.seconds += time.monotonic() - started
        compiled, (shapes, rest) = self._call, eqx.partition(self.result, is_shape)
        structure = jax.tree.structure(shapes)

        def call(*arguments: PyTree) -> PyTree:
            leaves = jax.tree.leaves(eqx.filter(arguments, eqx.is_array))
            arrays = jax.block_until_ready(compiled(*leaves))
            return eqx.combine(jax.tree.unflatten(structure, arrays), rest)

        return call

    def _compiled(self) -> Callable[..., list[Any]]:
        text = "" if self._place is None else self._lowered.as_text()
        if self._place is None or not _says_all(text):
            return _compile(self._lowered, self._key)
        return self._place.compile(self._lowered, text, self.result)


def call_program(function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
    """Call a function as one program, which is compiled once however often it is called.

    The function is traced in each call. Within a transformation, such as `jax.jit`, it is called as
    it is, and so it is while JAX looks for the reuse of keys or compiles nothing.
    """
    if not is_outermost() or _setting("jax_debug_key_reuse") or _setting("jax_disable_jit"):
        return function(*arguments)
    return Program(function, *arguments).compile()(*arguments)


def stored_result(stored_as: str, *arguments: PyTree) -> PyTree:
    """The result of a `Program`, with shapes in the place of arrays, if the program is stored.

    **Returns:** `None` if it is not.
    """
    place = place_for(stored_as, _kinds(arguments))
    return None if place is None else place.read_result()


def is_outermost() -> bool:
    """Whether no function is being traced, mapped or differentiated."""
    with eval_context():
        outermost = get_opaque_trace_state()
    return get_opaque_trace_state() == outermost


class _Kept:
    """A compiled program, and what tells it from others."""

    def __init__(self, lowered: Any, kinds: Hashable):
        self.kinds = kinds, _setting("jax_default_device")
        self._lowered: Any = lowered
        self.compiled: Any = None

    @cached_property
    def digest(self) -> bytes | None:
        """A hash of the program's text; `None` if the text does not say all.

        It is computed only if there is another program of the same kinds, because writing the
        text takes a noticeable part of a start.
        """
        text, self._lowered = self._lowered.as_text(), None
        return hashlib.sha256(text.encode()).digest() if _says_all(text) else None

    def __eq__(self, other: object) -> bool:
        if not (isinstance(other, _Kept) and self.kinds == other.kinds):
            return False
        return self.digest == other.digest and self.digest is not None


_kept: list[_Kept] = []  # the most recently used program is the last
_lock = threading.Lock()


def _compile(lowered: Any, kinds: Hashable) -> Any:
    program = _Kept(lowered, kinds)
    with _lock:
        found = next((kept for kept in _kept if kept == program), None)
    if found is None:
        program.compiled = lowered.compile()
        found = program
    with _lock:
        if found in _kept:
            _kept.remove(found)
        _kept.append(found)
        del _kept[:-MOST_KEPT]
    return found.compiled


def _says_all(text: str) -> bool:
    """Whether programs with this text are equal: Python's functions are numbers in it."""
    hoists_constants = _setting("jax_use_simplified_jaxpr_constants")
    return not (hoists_constants or "callback" in text or "host_transfer" in text)


def _setting(name: str) -> Any:
    return getattr(jax.config, name, None)


def _kinds(arguments: tuple[PyTree, ...]) -> Hashable:
    return tuple(map(_kind, jax.tree.leaves(eqx.filter(arguments, is_shape))))


def _kind(x: Any) -> Hashable:
    """What a program's text does not say of an argument or result: dtypes of keys, devices."""
    aval = jax.typeof(x) if eqx.is_array(x) else x
    sharding = x.sharding if isinstance(x, jax.Array | jax.ShapeDtypeStruct) else None
    return aval.shape, aval.dtype, getattr(aval, "weak_type", False), sharding
