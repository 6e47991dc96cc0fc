"""`Component`: a class or function that a config names by its import path, with its arguments."""

import dataclasses
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import jax

from .._core.require import did_you_mean
from .._core.screen import message_of

ANYTHING = ("*",)
"""The modules that a user's own config may name."""

# What any config may name: the public classes of these rooms, and these functions and classes.
_ROOMS = ("policies", "envs", "nn", "ppo", "testing")
_NAMES = {
    "make": "envs",
    "ppo_loss": "ppo",
    "Snapshot": "runs",
    "StopAtReturn": "runs",
    "TensorBoardLogger": "runs",
    "WandbLogger": "runs",
}


@dataclasses.dataclass(frozen=True)
class Component:
    """A class or function, and the arguments that it is called with."""

    class_path: str
    """Import path, such as my_module.MyPolicy or rlscan.policies.ActorCritic."""
    init_args: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments by name. An argument may be another class with arguments of its own."""


def is_component(value: Any) -> bool:
    """Whether a plain value stands for a class or function: a mapping with a `class_path`."""
    return isinstance(value, dict) and "class_path" in value


def is_own(path: str) -> bool:
    """Whether a path names something of rlscan's, which any config may name."""
    return path.partition(".")[0] == "rlscan" or not ("." in path or ":" in path)


def is_allowed(path: str, allow: Sequence[str]) -> bool:
    """Whether a config may name a class, see `find`."""
    module = path.replace(":", ".")
    return (
        is_own(path)
        or tuple(allow) == ANYTHING
        or any(module == one or module.startswith(f"{one}.") for one in allow)
    )


def require_allowed(component: Component, *, key: str, allow: Sequence[str]) -> None:
    """Raise `ValueError` if a config may not name a class, or one among its arguments."""
    stack: list[Any] = [dataclasses.asdict(component)]
    while stack:
        value = stack.pop()
        if is_component(value) and not is_allowed(str(value["class_path"]), allow):
            path = value["class_path"]
            module = _parts(path)[0]
            raise ValueError(
                f"{key}: {path} is not one of rlscan's classes, and nothing else is built from a "
                f"run directory unasked; if you trust it, add --allow {module}, or "
                f"allow=[{module!r}] in Python"
            )
        if isinstance(value, dict | list | tuple):
            stack += value.values() if isinstance(value, dict) else value


def find(path: str, *, key: str, allow: Sequence[str] = ()) -> Any:
    """Import the class or function at a path.

    **Arguments:**

    - `path`: `module.Name` or `module:Name`; a name alone is one of rlscan's.
    - `key`: the key of the config that names it, for errors.
    - `allow`: the modules that may be imported beside rlscan's public rooms; those below them too.

    **Raises:** `ValueError`, in one line, if it is not allowed or cannot be imported, if there is
    no such name, or if it cannot be called.
    """
    if isinstance(path, str) and (path.endswith(".py") or "/" in path):
        module = path.partition(":")[0].removesuffix(".py").rpartition("/")[2]
        raise ValueError(
            f"{key} must be an import path, such as {module}.MyClass, got the file {path}; run "
            "from the directory that holds it"
        )
    if not isinstance(path, str) or not all(p.isidentifier() for p in _parts(path)):
        raise ValueError(f"{key} must be an import path, such as my_module.MyClass, got {path!r}")
    if is_own(path):
        return _find_own(path, key)
    require_allowed(Component(path), key=key, allow=allow)
    found = _attribute(path, key)
    if not callable(found):
        raise ValueError(f"{key}: {path} must be a class or a function, got {found!r}")
    return found


def _parts(path: str) -> list[str]:
    return path.replace(":", ".").split(".")


def _find_own(path: str, key: str) -> Any:
    """One of the public names of rlscan's rooms; nothing that they import from elsewhere."""
    known = _own_names()
    name = path.removeprefix("rlscan.")
    if name not in known:
        near = did_you_mean(name.rpartition(".")[2], [n for n in known if "." not in n])
        hint = f"; a class of your own is named with its module, such as {path}.MyClass"
        if key == "optimizer":
            hint = f"; one of optax's is named optax.{path}"
        raise ValueError(f"{key}: rlscan has no {name}{near}{'' if '.' in path else hint}")
    room, _, attribute = known[name].rpartition(".")
    return getattr(importlib.import_module(f"rlscan.{room}"), attribute)


def _own_names() -> dict[str, str]:
    """The public names of the rooms, `ActorCritic` and `policies.ActorCritic`, with the latter."""
    names = {}
    for room in _ROOMS:
        module = importlib.import_module(f"rlscan.{room}")
        public = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and isinstance(value, type)
            and getattr(value, "__module__", "").startswith("rlscan.")
        ]
        names |= {f"{room}.{name}": f"{room}.{name}" for name in public}
    names |= {f"{room}.{name}": f"{room}.{name}" for name, room in _NAMES.items()}
    return {full.partition(".")[2]: full for full in names} | names


def _attribute(path: str, key: str) -> Any:
    if ":" in path:
        module_name, _, names = path.partition(":")
        found, rest = _import(module_name, path, key), names.split(".")
    else:
        found, rest = _longest_module(_parts(path), path, key)
    for name in rest:
        if not hasattr(found, name):
            where = found.__name__ if isinstance(found, ModuleType) else repr(found)
            names = [n for n in dir(found) if not n.startswith("_")]
            raise ValueError(f"{key}: {where} has no {name}{did_you_mean(name, names)}")
        found = getattr(found, name)
    return found


def _longest_module(parts: list[str], path: str, key: str) -> tuple[Any, list[str]]:
    """The module at the front of a dotted path, and the names after it."""
    if len(parts) == 1:
        raise ValueError(f"{key} must be an import path, such as my_module.MyClass, got {path!r}")
    module = _import(parts[0], path, key)
    for i, name in enumerate(parts[1:], 1):
        if hasattr(module, name) and not isinstance(getattr(module, name), ModuleType):
            return module, parts[i:]
        is_package = hasattr(module, "__path__")
        with _working_directory():
            spec = importlib.util.find_spec(".".join(parts[: i + 1])) if is_package else None
        if spec is None:
            return module, parts[i:]
        module = _import(".".join(parts[: i + 1]), path, key)
    return module, []


def _import(name: str, path: str, key: str) -> Any:
    try:
        with _working_directory():
            return importlib.import_module(name)
    except Exception as error:  # what a user's module raises may be anything
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise ValueError(
                f"{key}: there is no module {name} for {path}; run from the directory that "
                f"holds it, or install it"
            ) from None
        what = f"{type(error).__name__}: {message_of(error)}"
        raise ValueError(f"{key}: importing {name} failed, {what}") from error


@contextmanager
def _working_directory() -> Iterator[None]:
    """Let modules be imported from the working directory.

    It comes first for the module that a config names, and last afterwards, so that its files hide
    no installed module from imports that are made later.
    """
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")
        if "" not in sys.path:
            sys.path.append("")


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a class or function by name; empty if Python cannot tell."""
    try:
        return dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return {}


def takes(target: Any, name: str) -> bool:
    """Whether a class or function has an argument of this name that it can be called with."""
    parameter = parameters(target).get(name)
    return parameter is not None and parameter.kind in (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )


def missing(target: Any, given: Sequence[str], *, num_positional: int = 0) -> list[str]:
    """The required arguments of a class or function that are not given."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [
        p.name
        for p in parameters(target).values()
        if p.default is inspect.Parameter.empty and p.kind not in kinds
    ]
    return [name for name in required[num_positional:] if name not in given]


def build(
    component: Component,
    *positional: Any,
    key: str,
    allow: Sequence[str] = (),
    rng: Any = None,
    **given: Any,
) -> Any:
    """Call a class or function with its arguments, those among them that are components first.

    **Arguments:**

    - `component`: what to build.
    - `positional`: arguments that come first, such as the environment of a policy.
    - `key`: the key of the config, for errors.
    - `allow`: as for `find`.
    - `rng`: the `key=` of the call, if the class takes one. Components among the arguments get keys
        of their own.
    - `given`: further arguments that the config does not give.

    **Returns:** the result of the call; if required arguments are missing, the function itself with
    the others filled in, as for a loss.

    **Raises:** `ValueError`, in one line, if it cannot be found or the call fails.
    """
    target = find(component.class_path, key=key, allow=allow)
    arguments, rng = _built_arguments(component.init_args, key, allow, rng)
    if rng is not None and takes(target, "key") and "key" not in arguments:
        given["key"] = rng
    arguments = {**arguments, **given}
    if missing(target, list(arguments), num_positional=len(positional)) and not positional:
        return partial(target, **arguments) if arguments else target
    try:
        return target(*positional, **arguments)
    except Exception as error:  # a user's class may raise anything
        what = message_of(error)
        if is_own(component.class_path) and isinstance(error, ValueError | TypeError):
            raise ValueError(f"{key}: {what}") from None
        raise ValueError(
            f"{key}: {component.class_path} failed, {type(error).__name__}: {what}"
        ) from error


def _built_arguments(
    arguments: dict[str, Any], key: str, allow: Sequence[str], rng: Any
) -> tuple[dict[str, Any], Any]:
    """The arguments with their components built, and the key that is left."""

    def one(value: Any, name: str) -> Any:
        nonlocal rng
        if is_component(value):
            extra = {}
            if rng is not None:
                rng, extra["rng"] = jax.random.split(rng)
            return build(as_component(value, name), key=name, allow=allow, **extra)
        if isinstance(value, list | tuple):
            return type(value)(one(x, f"{name}[{i}]") for i, x in enumerate(value))
        if isinstance(value, dict):
            return {k: one(x, f"{name}.{k}") for k, x in value.items()}
        return value

    return {k: one(value, f"{key}.{k}") for k, value in arguments.items()}, rng


def as_component(value: Any, key: str) -> Component:
    """A component from a path, or from a mapping of `class_path` and `init_args`."""
    if isinstance(value, Component):
        return value
    if isinstance(value, str):
        return Component(value)
    if not is_component(value) or not isinstance(value.get("init_args") or {}, dict):
        raise ValueError(
            f"{key} must be a class by its import path, or a mapping of class_path and init_args, "
            f"got {value!r}"
        )
    if extra := [name for name in value if name not in ("class_path", "init_args")]:
        raise ValueError(
            f"{key} has the entry {extra[0]!r} beside class_path and init_args; put arguments "
            "under init_args"
        )
    return Component(value["class_path"], dict(value.get("init_args") or {}))


def name_of(component: Component) -> str:
    """The last part of the path, to show on the screen."""
    return _parts(component.class_path)[-1]


def require_methods(
    built: Any, methods: Sequence[str], key: str, component: Component, what: str
) -> None:
    """Raise `ValueError` if what a config builds lacks a method that it needs."""
    for name in methods:
        if not callable(getattr(built, name, None)):
            raise ValueError(
                f"{key}: {component.class_path} must give {what}, but {type(built).__name__} has "
                f"no method {name}"
            )
