"""`complete`: the arguments of a component, checked against the signature of its class."""

import inspect
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .._core.require import did_you_mean
from .._core.schema import require_plain, structured
from ._component import Component, as_component, find, is_allowed, is_component, missing, parameters
from ._values import is_union, read_value, wanted_of


class Argument(NamedTuple):
    """An argument that a config may give to a class or function."""

    kind: Any  # the types of plain values that it takes; `Any` if the signature does not say
    takes_components: bool
    is_function: bool  # whether it is a class or function, which text can only name
    default: Any  # `inspect.Parameter.empty` if it is required


class Given(NamedTuple):
    """An argument as a config gives it."""

    value: Any  # text, or lists and mappings: not yet converted
    got: str  # as it was written, for errors
    where: str  # file and line, for errors
    source: int  # the number of the file; the command line comes last


def arguments_of(target: Any, num_positional: int, given: Sequence[str]) -> dict[str, Argument]:
    """The arguments of a class or function by name, without those that rlscan gives."""
    hints = _hints(target)
    found = list(parameters(target).values())
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        p.name: Argument(*_kind_of(hints.get(p.name, p.annotation)), p.default)
        for p in found[num_positional:]
        if p.kind in named and p.name not in given
    }


def takes_anything(target: Any) -> bool:
    """Whether a class or function has a parameter `**kwargs`."""
    found = parameters(target).values()
    return not found or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in found)


def complete(
    class_path: str,
    arguments: Mapping[str, Given],
    *,
    key: str,
    chosen_by: int,
    allow: Sequence[str],
    num_positional: int = 0,
    given: Sequence[str] = (),
    may_lack: bool = False,
) -> Component:
    """Check the arguments of a component, and add the defaults that a config can hold.

    **Arguments:**

    - `class_path`: the class or function.
    - `arguments`: those that the config gives.
    - `key`: the key of the config, such as `policy`.
    - `chosen_by`: the source that named the class. What earlier sources gave to another class is
        left out if this one does not take it.
    - `allow`: see `find`. A class that is not allowed keeps its arguments as they are.
    - `num_positional`, `given`: what rlscan gives itself: the number of arguments that come first,
        and names of others.
    - `may_lack`: whether required arguments may be missing, as those that a loss is called with.

    **Raises:** `ValueError` for an argument that it does not take, or of another type.
    """
    if not is_allowed(class_path, allow):
        return Component(class_path, {name: loaded(one.value) for name, one in arguments.items()})
    target = find(class_path, key=key, allow=allow)
    known = arguments_of(target, num_positional, given)
    values = {}
    for name, one in arguments.items():
        if name in known:
            values[name] = _converted(f"{key}.{name}", one, known[name], allow)
        elif takes_anything(target) and name not in given:
            values[name] = _converted(f"{key}.{name}", one, Argument(Any, True, False, None), allow)
        elif one.source >= chosen_by:
            raise ValueError(_unknown(f"{key}.{name}", one, class_path, known))
    lacking = missing(target, [*values, *given], num_positional=num_positional)
    if lacking and not may_lack:
        raise ValueError(
            f"{key}: {class_path} needs {' and '.join(lacking)}; give it under init_args, or as "
            f"--{key.partition('[')[0]}.{lacking[0]}"
        )
    defaults = {name: _plain(argument.default) for name, argument in known.items()}
    kept = {name: value for name, value in defaults.items() if value is not _NOT_PLAIN}
    in_order = [*known, *(name for name in values if name not in known)]
    both = {**kept, **values}
    return Component(class_path, {name: both[name] for name in in_order if name in both})


def describe_arguments(class_path: str, known: Mapping[str, Argument]) -> Iterator[str]:
    """Lines that list the arguments of a class, for help."""
    for name, argument in known.items():
        kind = "any value" if argument.kind is Any else wanted_of(argument.kind)
        if argument.takes_components and argument.kind is not Any:
            kind += ", or a class_path with init_args"
        required = argument.default is inspect.Parameter.empty
        default = "required" if required else f"default {_shown(argument.default)}"
        yield f"  {name:<22} {kind} ({default})"


def _shown(default: Any) -> str:
    value = _plain(default)
    return repr(default) if value is _NOT_PLAIN else as_text(value)


def as_text(value: Any) -> str:
    """A plain value as one would write it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_text, value))}]"
    return str(value)


_NOT_PLAIN: Any = object()


def _plain(default: Any) -> Any:
    """A default as YAML holds it; `_NOT_PLAIN` if it cannot."""
    if isinstance(default, list | tuple):
        parts = [_plain(one) for one in default]
        return _NOT_PLAIN if any(one is _NOT_PLAIN for one in parts) else parts
    is_plain = default is None or isinstance(default, bool | int | float | str)
    return default if is_plain else _NOT_PLAIN


def _hints(target: Any) -> Mapping[str, Any]:
    function = target.__init__ if isinstance(target, type) else target
    try:
        return typing.get_type_hints(function)
    except Exception:  # an annotation may be text that names nothing
        return {}


def _kind_of(annotation: Any) -> tuple[Any, bool, bool]:
    """The types of an annotation that are plain, whether it names others, and if these alone."""
    if annotation is inspect.Parameter.empty or annotation is Any or isinstance(annotation, str):
        return Any, True, False
    parts = typing.get_args(annotation) if is_union(annotation) else (annotation,)
    kinds, others = [], False
    for part in parts:
        plain = _plain_kind(part)
        others |= plain is None
        kinds += [plain] if plain is not None and plain not in kinds else []
    if float in kinds and int in kinds:
        kinds.remove(int)
    if Any in kinds or not [kind for kind in kinds if kind is not type(None)]:
        return Any, True, Any not in kinds
    return typing.Union[tuple(kinds)], others, False  # noqa: UP007


def _plain_kind(part: Any) -> Any:
    """The plain type that an annotation stands for, such as a tuple for a sequence, or `None`."""
    origin, arguments = typing.get_origin(part), typing.get_args(part)
    if part in (int, float, bool, str, type(None)) or origin is typing.Literal:
        return part
    if part is dict or origin in (dict, Mapping):
        return dict
    if part in (list, tuple) or origin in (list, tuple, Sequence):
        item = _kind_of(arguments[0])[0] if arguments else Any
        return list if item is Any else tuple[item, ...]
    if part is Any:
        return Any
    if hasattr(part, "__supertype__"):
        return _plain_kind(part.__supertype__)
    return None


def _converted(key: str, one: Given, argument: Argument, allow: Sequence[str]) -> Any:
    value: Any = one.value
    if isinstance(value, str) and argument.takes_components and value.lstrip().startswith("{"):
        value = loaded(value)
    if argument.is_function and isinstance(value, str) and set(".:") & set(value):
        value = {"class_path": value}
    if is_component(value) and argument.takes_components:
        return _nested(key, value, one, allow)
    value = read_value(key, value, argument.kind, got=one.got, where=one.where)
    require_plain(key, value)
    return _with_nested(key, value, one, allow)


def _with_nested(key: str, value: Any, one: Given, allow: Sequence[str]) -> Any:
    """A value with each component in it checked; lists in place of tuples, as in YAML."""
    if is_component(value):
        return _nested(key, value, one, allow)
    if isinstance(value, list | tuple):
        return [_with_nested(f"{key}[{i}]", x, one, allow) for i, x in enumerate(value)]
    if isinstance(value, dict):
        return {k: _with_nested(f"{key}.{k}", x, one, allow) for k, x in value.items()}
    return value


def _nested(key: str, value: Any, one: Given, allow: Sequence[str]) -> dict[str, Any]:
    inner = as_component(value, f"{one.where}{key}")
    found = complete(
        inner.class_path,
        {n: Given(v, str(v), one.where, one.source) for n, v in inner.init_args.items()},
        key=key,
        chosen_by=one.source,
        allow=allow,
        given=("key",),
        may_lack=True,
    )
    return {"class_path": found.class_path, "init_args": found.init_args}


def loaded(value: Any) -> Any:
    """A value as YAML reads it, if it is text."""
    return read_value("", value, Any, got="", where="") if isinstance(value, str) else value


def _unknown(key: str, one: Given, class_path: str, known: Mapping[str, Argument]) -> str:
    what = f"{one.where}unknown key" if one.where else "unknown option"
    name = key if one.where else f"--{key}"
    prefix, _, last = key.rpartition(".")
    near = did_you_mean(last, known)
    if near:
        near = near.replace("mean ", f"mean {prefix}.").replace(" or ", f" or {prefix}.")
    takes = f"; {class_path} takes {', '.join(known)}" if known else f"; {class_path} takes none"
    return f"{what} {name}{near or takes}"


def require_types(
    component: Component, *, key: str, num_positional: int = 0, given: Sequence[str] = ()
) -> None:
    """Raise `ValueError` unless the arguments of a class of rlscan's have the types that it takes.

    Nothing is converted. It is for configs in files that rlscan wrote, and somebody may have
    changed.
    """
    known = arguments_of(find(component.class_path, key=key), num_positional, given)
    for name, value in component.init_args.items():
        if name not in known:
            raise ValueError(f"{key} must not have the entry {name!r}")
        kind = known[name].kind
        options = typing.get_args(kind) if is_union(kind) else (kind,)
        if kind is Any or is_component(value) or (value is None and type(None) in options):
            continue
        structured(value, next(x for x in options if x is not type(None)), f"{key}.{name}")
