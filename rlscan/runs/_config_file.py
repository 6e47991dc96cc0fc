"""`read_settings`: the values in a YAML file, with the lines they stand on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .._core.require import did_you_mean
from ._config import GROUPS, KEYS, LISTS
from ._config_keys import first_key, is_key, is_of_component, may_be_none, nearest, wanted
from ._named_configs import named_configs
from ._yaml import compose

_STANDARD = "tag:yaml.org,2002:"  # how the tags of YAML's own types begin


class Setting(NamedTuple):
    """A value for a key of the config."""

    key: str
    value: Any  # text, or a list or mapping: not yet converted to the type of the key
    got: str  # the value as it was written, for errors
    where: str = ""  # file and line, for errors


def read_settings(path: str) -> list[Setting]:
    """Read a YAML file of nested or dotted keys.

    **Raises:** `ValueError` if the file cannot be read, or if a key is unknown, repeated or empty.
    """
    settings, seen = [], set()
    for key, key_node, node in _walk(_compose(path), path):
        where = _where(key_node, path)
        if not (key in GROUPS or is_key(key)):
            raise ValueError(f"{where}unknown key {key}{nearest(key)}")
        if key in seen:
            raise ValueError(f"{where}{key} is given twice; keep one")
        seen.add(key)
        if key in KEYS or _is_value(key, node):
            if key in KEYS and node.tag == f"{_STANDARD}null" and not may_be_none(key):
                raise ValueError(f"{where}{key} must be {wanted(key)}, got nothing")
            settings.append(Setting(key, _value(node, path), _text(node, path), where))
    return settings


def _compose(path: str) -> yaml.Node:
    """The nodes of a file, which have line numbers."""
    try:
        root = compose(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        siblings = [*Path(path).parent.glob("*.y*ml"), *named_configs()]
        raise ValueError(f"no config file {path}{did_you_mean(path, siblings)}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ValueError(f"cannot read the config file {path}: {reason}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ValueError(f"{path}{line}: not valid YAML, {problem}") from None
    if root is None:
        raise ValueError(f"{path} is empty; a config is a mapping, such as `seed: 0`")
    return root


def _walk(node: yaml.Node, path: str, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The dotted keys of a config, with the nodes of key and value."""
    if not isinstance(node, yaml.MappingNode):
        what = f"{prefix[:-1]} must be" if prefix else "a config is"
        raise ValueError(
            f"{_where(node, path)}{what} a mapping, such as "
            f"`{first_key(prefix).removeprefix(prefix)}: …`, "
            f"got {node.value or 'nothing' if isinstance(node, yaml.ScalarNode) else 'a list'}"
        )
    for key_node, value in node.value:
        key = f"{prefix}{_name(key_node, path)}"
        yield key, key_node, value
        if key in GROUPS and not _is_value(key, value):
            yield from _walk(value, path, f"{key}.")
        elif is_of_component(key) and not _is_value(key, value):
            yield from _walk(value, path, f"{key}.")
        elif is_key(f"{key}.") and isinstance(value, yaml.MappingNode):
            yield from _walk(value, path, f"{key}.")


def _is_value(key: str, node: yaml.Node) -> bool:
    """Whether a key that names a class, or an argument of one, has its value here.

    The mapping of a class holds its arguments one by one, and so does `init_args`.
    """
    group, _, name = key.partition(".")
    holds_keys = isinstance(node, yaml.MappingNode) and name in ("", "init_args")
    return is_of_component(key) and (group in LISTS or not holds_keys)


def _value(node: yaml.Node, path: str) -> Any:
    """The text of a scalar, as on a command line; lists and dictionaries of values."""
    if isinstance(node, yaml.MappingNode):
        return {_name(key, path): _item(value, path) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_item(item, path) for item in node.value]
    return _text(node, path)


def _item(node: yaml.Node, path: str) -> Any:
    """A value in a list or dictionary, which jsonargparse does not convert if any type will do."""
    from jsonargparse import get_loader

    value = _value(node, path)
    is_plain = isinstance(node, yaml.ScalarNode) and node.style is None  # not in quotes
    return get_loader("yaml")(value) if is_plain else value


def _text(node: yaml.Node, path: str) -> str:
    if not node.tag.startswith(_STANDARD):
        raise ValueError(f"{_where(node, path)}a value takes no tag, got {node.tag}; leave it out")
    if isinstance(node, yaml.MappingNode):
        items = (f"{_name(key, path)}: {_text(value, path)}" for key, value in node.value)
        return f"{{{', '.join(items)}}}"
    if isinstance(node, yaml.SequenceNode):
        return f"[{', '.join(_text(item, path) for item in node.value)}]"
    return "null" if node.tag == f"{_STANDARD}null" else node.value


def _name(node: yaml.Node, path: str) -> str:
    """The text of a key."""
    if node.tag == f"{_STANDARD}str":
        return node.value
    got = node.value if isinstance(node, yaml.ScalarNode) else "a mapping"
    if isinstance(node, yaml.SequenceNode):
        got = "a list"
    if node.tag == f"{_STANDARD}merge":
        got = "<<; write out the keys that it would merge"
    raise ValueError(f"{_where(node, path)}a key must be a name, such as seed, got {got}")


def _where(node: yaml.Node, path: str) -> str:
    return f"{path}:{node.start_mark.line + 1}: "
