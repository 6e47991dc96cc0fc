"""The attributes of an environment, to find out which of them change."""

import pickle
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import jax
import numpy as np

_MOST_LEVELS = 6
_CONSTANTS = (type, ModuleType, FunctionType, MethodType, BuiltinFunctionType)


def attributes(env: Any) -> dict[str, Any]:
    """The attributes of an object, and of the objects in them, by their paths.

    **Returns:** values that compare equal as long as the attributes stay the same. An array of JAX,
    which cannot change, and what cannot be pickled are compared by their identity.
    """
    found: dict[str, Any] = {}
    _visit("env", env, found, set(), _MOST_LEVELS)
    return found


def _visit(name: str, node: Any, found: dict[str, Any], seen: set[int], levels: int) -> None:
    if isinstance(node, _CONSTANTS) or id(node) in seen or not levels:
        return
    parts = _parts(name, node)
    if parts is None:
        found[name] = _fingerprint(node)
        return
    seen.add(id(node))
    if isinstance(node, dict | list):
        found[name] = len(parts)
    for part_name, part in parts.items():
        _visit(part_name, part, found, seen, levels - 1)


def _parts(name: str, node: Any) -> dict[str, Any] | None:
    if isinstance(node, dict):
        return {f"{name}[{key!r}]": part for key, part in node.items()}
    if isinstance(node, list | tuple):
        return {f"{name}[{i}]": part for i, part in enumerate(node)}
    if isinstance(node, jax.Array | np.ndarray) or not hasattr(node, "__dict__"):
        return None
    return {f"{name}.{key}": part for key, part in vars(node).items()}


def _fingerprint(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):  # tracers too
        return _Identity(leaf)
    try:
        return pickle.dumps(leaf)
    except Exception:
        return _Identity(leaf)


class _Identity:
    """Equal for one object alone, which it keeps alive, so that no other one gets its address."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, _Identity) and self.value is other.value
