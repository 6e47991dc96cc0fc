"""`read_value`: a value of a config, converted from text to the type of its key."""

import re
import typing
from functools import cache
from typing import Any

import yaml

from ._yaml import compose

_WANTED = {
    Any: "a value as YAML writes it, with text such as '12:30' in quotes",
    int: "an integer, written without point or exponent",
    float: "a number, such as 3e-4",
    bool: "true or false",
    dict: "a mapping, such as {gravity: 9.8}",
    list: "a list, such as [a, b]",
    tuple[int, ...]: "a list of integers, such as [64, 64]",
    tuple[float, ...]: "a list of numbers, such as [0.5, 1]",
}


def read_value(key: str, value: Any, kind: Any, *, got: str, where: str = "", words: str = ""):
    """Convert a value to a type.

    **Arguments:**

    - `key`: the key of the config, for errors.
    - `value`: text, or a list or mapping of values.
    - `kind`: the type. `Any` takes what YAML makes of the text.
    - `got`, `where`: the value as it was written, and the file and line, for errors.
    - `words`: what the key takes, if not what `wanted_of(kind)` says.

    **Raises:** `ValueError`, in one line, for a value of another type.
    """
    from jsonargparse import ArgumentError, get_loader

    if isinstance(value, str) and wanted_of(kind) == _WANTED[float]:
        value = _INFINITE.sub(r"\1.inf", value)
    try:
        if has_ambiguous_number(kind, got) or not _is_yaml(value):
            raise ArgumentError(None, key)
        if kind is Any:
            return get_loader("yaml")(value) if isinstance(value, str) else value
        return _parser(kind).parse_object({"value": value}, defaults=False)["value"]
    except (ArgumentError, yaml.YAMLError):
        got = " ".join(got.split()) or "nothing"
        raise ValueError(f"{where}{key} must be {words or wanted_of(kind)}, got {got}") from None


_INFINITE = re.compile(r"^\s*([+-]?)inf(inity)?\s*$", re.IGNORECASE)  # YAML writes it with a point


def wanted_of(kind: Any) -> str:
    """The values of a type, in words."""
    options = [one for one in typing.get_args(kind) if one is not type(None)]
    if is_union(kind):
        return " or ".join(dict.fromkeys(map(wanted_of, options)))
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(map(str, options))}"
    if typing.get_origin(kind) is tuple and typing.get_origin(options[0]) is typing.Literal:
        choices = typing.get_args(options[0])
        return f"a list of {', '.join(choices)}, such as [{choices[0]}]"
    return _WANTED.get(kind) or _WANTED.get(typing.get_origin(kind), "text")


def is_union(kind: Any) -> bool:
    """Whether a type is several, such as `float | None`."""
    return isinstance(kind, type(int | str)) or typing.get_origin(kind) is typing.Union


@cache
def _parser(kind: Any) -> Any:
    import jsonargparse  # a quarter of a second, which `import rlscan` does without

    configure_jsonargparse()
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    return parser


@cache
def configure_jsonargparse() -> None:
    """Set how configs are read and explained."""
    import jsonargparse

    from ..ppo._config import PPOConfig

    jsonargparse.set_parsing_settings(
        docstring_parse_attribute_docstrings=True,  # they are the texts of --help
        subclasses_disabled=[PPOConfig],  # else an eqx.Module is asked for as class_path, init_args
        instantiate_subclass_spec_in_any=False,  # `find` decides what may be imported
    )


# Numbers that YAML reads as others: 12:30 is 750 there (sexagesimal), and 017 is 15 (octal).
_AMBIGUOUS = re.compile(r"(?<![\w.+-])[-+]?(0[0-7_]+|\d[\d_]*(:[0-5]?\d)+(\.\d*)?)(?![\w.])")


def has_ambiguous_number(kind: Any, got: str) -> bool:
    """Whether a number was written so that YAML reads another one."""
    is_text = str in (kind, *typing.get_args(kind))
    return not is_text and _AMBIGUOUS.search(got) is not None


def _is_yaml(value: Any) -> bool:
    """Whether a text can be read at all; see `compose` for aliases that never end."""
    try:
        return not isinstance(value, str) or "*" not in value or compose(value) is not None
    except yaml.YAMLError:
        return False
