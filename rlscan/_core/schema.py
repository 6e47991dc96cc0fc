"""Plain data, as JSON and YAML hold it, checked against the types that it is to have."""

import dataclasses
import types
import typing
from typing import Any

_DEEPEST, _MOST = 32, 10_000  # levels and values in data of no fixed type

_WORDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    tuple: "a list",
    dict: "a mapping",
}


def structured(value: Any, kind: Any, name: str) -> Any:
    """Make a value of a type from plain data.

    Dataclasses are made from mappings, tuples from lists, and `Any` takes what `require_plain`
    accepts. Nothing is converted otherwise: `"3"` is no integer.

    **Arguments:**

    - `value`: dicts, lists, strings, numbers, booleans and `None`.
    - `kind`: the type: one of these, `Any`, a dataclass, a `Literal`, or a union with `None`. A
        plain `dict` may hold anything.
    - `name`: what messages call the value.

    **Returns:** the value, of that type.

    **Raises:** `ValueError`, which names the first entry that is missing, unknown or of another
    type.
    """
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (kind,) = (one for one in arguments if one is not type(None))
        return None if value is None else structured(value, kind, name)
    if dataclasses.is_dataclass(kind):
        return _dataclass(value, kind, name)
    if origin is typing.Literal:
        _require(isinstance(value, str) and value in arguments, name, kind, value)
        return value
    if origin in (list, tuple):
        _require(isinstance(value, list | tuple), name, kind, value)
        return origin(structured(x, arguments[0], f"{name}[{i}]") for i, x in enumerate(value))
    if origin is dict:
        _require(isinstance(value, dict), name, kind, value)
        entries = arguments and value.items()
        return {**value, **{k: structured(x, arguments[1], f"{name}.{k}") for k, x in entries}}
    if origin is Any:
        require_plain(name, value)
        return value
    accepted = (int, float) if kind is float else kind
    fits = isinstance(value, accepted) and isinstance(value, bool) == (kind is bool)
    _require(fits and not _is_huge(value), name, kind, value)
    return float(value) if kind is float else value


def require_plain(name: str, value: Any) -> None:
    """Raise `ValueError` for data that is nested too deeply, contains itself, or is too much."""
    stack, num_values = [(value, 0)], 0
    while stack:
        node, depth = stack.pop()
        num_values += 1
        if depth > _DEEPEST or num_values > _MOST:
            raise ValueError(
                f"{name} must hold at most {_MOST:,} values, in at most {_DEEPEST} levels; "
                "use a flat mapping, without aliases"
            )
        parts = node.values() if isinstance(node, dict) else node
        if isinstance(node, dict | list | tuple):
            stack += [(part, depth + 1) for part in parts]


def _dataclass(value: Any, kind: Any, name: str) -> Any:
    _require(isinstance(value, dict), name, dict, value)
    hints, fields = typing.get_type_hints(kind), dataclasses.fields(kind)
    for entry in value:
        if entry not in hints:
            raise ValueError(f"{name} must not have the entry {entry!r}")
    for field in fields:
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and field.name not in value:
            raise ValueError(f"{name} must have the entry {field.name!r}")
    return kind(**{k: structured(x, hints[k], f"{name}.{k}") for k, x in value.items()})


def _require(is_right: bool, name: str, kind: Any, value: Any) -> None:
    if is_right:
        return
    origin = typing.get_origin(kind) or kind
    words = _WORDS.get(origin) or f"one of {', '.join(map(str, typing.get_args(kind)))}"
    raise ValueError(f"{name} must be {words}, got {_brief(value)}")


def _is_huge(value: Any) -> bool:
    """Whether a value is an integer of more than 64 bits, which no float or array can hold."""
    return isinstance(value, int) and value.bit_length() > 63


def _brief(value: Any) -> str:
    """Show a value in a few words, whatever its size."""
    if isinstance(value, dict | list | tuple):
        return f"{_WORDS[dict if isinstance(value, dict) else list]} of {len(value)}"
    if _is_huge(value):
        return f"one of {value.bit_length()} bits"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
