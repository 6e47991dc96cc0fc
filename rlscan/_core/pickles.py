"""Pickles for this machine of what compiled programs take and return.

Beside what `pickle` knows, they hold jitted functions of modules, such as `jnp.tanh`, and
references to objects that exist in each process.
"""

import io
import pickle
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import BuiltinFunctionType, FunctionType
from typing import Any


def dumps(value: Any, live: Sequence[Any] = ()) -> bytes:
    """Pickle a value.

    **Arguments:**

    - `value`: what to pickle.
    - `live`: objects that `value` may refer to, themselves or the objects in their attributes.
        They are not written. `loads` puts those in their place that it is given.

    **Raises:** whatever `pickle` raises for what it cannot write, such as a lambda.
    """
    stream = io.BytesIO()
    _Pickler(stream, live).dump(value)
    return stream.getvalue()


def loads(content: bytes, live: Sequence[Any] = ()) -> Any:
    """Undo `dumps`. It runs what the content says, so the content must be this user's own."""
    return _Unpickler(io.BytesIO(content), live).load()


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, live: Sequence[Any]):
        super().__init__(stream)
        self._live = {id(part): i for i, part in enumerate(_parts(live))}

    def persistent_id(self, obj: Any) -> int | None:
        return self._live.get(id(obj))

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type | FunctionType | BuiltinFunctionType):
            return NotImplemented
        module, name = getattr(obj, "__module__", None), getattr(obj, "__name__", None)
        if callable(obj) and module and name and obj is getattr(import_module(module), name, None):
            return _named, (module, name)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, live: Sequence[Any]):
        super().__init__(stream)
        self._live = list(_parts(live))

    def persistent_load(self, pid: int) -> Any:
        return self._live[pid]


def _parts(objects: Sequence[Any]) -> Iterator[Any]:
    """The objects that a program may hold as they are: neither numbers nor arrays."""
    for x in objects:
        if hasattr(x, "__dict__") and not isinstance(x, type) and not hasattr(x, "shape"):
            yield x
            yield from _parts(list(vars(x).values()))


def _named(module: str, name: str) -> Any:
    return getattr(import_module(module), name)
