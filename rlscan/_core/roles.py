"""Checks that what is passed as a policy or an environment is one."""

import inspect
from typing import Any

import equinox as eqx
from jax.tree_util import keystr, tree_flatten_with_path

# The methods of each, and the positional arguments that they must take, if that is checked.
Methods = dict[str, tuple[str, ...] | None]

_SPACES: Methods = {"observation_space": (), "action_space": ()}
_ENVIRONMENT: Methods = {"reset": ("key",), "step": ("key", "state", "action"), **_SPACES}
_POLICY: Methods = {"initial_state": (), "__call__": None}


def require_environment(env: Any) -> None:
    """Raise `TypeError` unless `env` has the methods of an `rlscan.Environment`."""
    _refuse_gymnasium(env)
    _require_methods(env, "environment", _ENVIRONMENT, "policy", _POLICY)


def require_spaces(env: Any) -> None:
    """Raise `TypeError` unless `env` has the two spaces of an `rlscan.Environment`, as methods."""
    _refuse_gymnasium(env)
    _require_methods(env, "environment", _SPACES, "policy", _POLICY)


def _refuse_gymnasium(env: Any) -> None:
    """Refuse an environment of Gymnasium, and spaces that are attributes, as they are there."""
    kind, spaces = type(env).__name__, {name: getattr(env, name, None) for name in _SPACES}
    is_attribute = [
        name for name, space in spaces.items() if not (space is None or callable(space))
    ]
    if not is_attribute:
        return
    if _binds(env, "reset", seed=0) and _binds(env, "step", None):
        raise TypeError(
            f"{kind} is a Gymnasium environment, which Python steps outside of JAX, and a rollout "
            "is one compiled program; use rlscan.make('gymnasium:NAME'), or write reset and step "
            "in JAX as rlscan.Environment describes them"
        )
    name = is_attribute[0]
    is_property = isinstance(inspect.getattr_static(type(env), name, None), property)
    edit = "remove its @property" if is_property else f"write def {name}(self): return …"
    raise TypeError(
        f"{kind}.{name} must be a method that returns the space, got "
        f"{'a property' if is_property else 'an attribute'}, {spaces[name]!r}; {edit}"
    )


def _binds(thing: Any, name: str, *args: Any, **kwargs: Any) -> bool:
    """Whether a method takes these arguments."""
    try:
        inspect.signature(getattr(thing, name)).bind(*args, **kwargs)
    except (AttributeError, TypeError, ValueError):
        return False
    return True


def require_one_program(env: Any, *, num_runs: int = 1, num_devices: int = 1) -> None:
    """Raise `ValueError` if an environment on the host is to be split, or mapped over runs."""
    for what, number in (("runs", num_runs), ("devices", num_devices)):
        if number > 1 and getattr(env, "keeps_state", False):
            raise ValueError(
                f"{env!r} runs outside of JAX, so one program must step it on one device, got "
                f"{number} {what}; "
                + ("train one after the other" if what == "runs" else "use one")
            )


def require_policy(policy: Any) -> None:
    """Raise `TypeError` unless `policy` has the methods of an `rlscan.Policy`."""
    _require_methods(policy, "policy", _POLICY, "environment", _ENVIRONMENT)


def _require_methods(thing: Any, kind: str, methods: Methods, other: str, others: Methods) -> None:
    """Require the methods of a kind; `other` is the kind that it may be mistaken for."""
    if isinstance(thing, type):
        raise TypeError(f"the {kind} must be an object, got the class {thing.__name__}; build one")
    for name, arguments in methods.items():
        method = getattr(thing, name, None)
        if not callable(method):
            is_other = all(callable(getattr(thing, method, None)) for method in others)
            remedy = f"it is the {other}: swap the two, the policy comes first" if is_other else ""
            if isinstance(thing, str) and kind == "environment":
                remedy = f"make it: rlscan.make({thing!r})"
            remedy = remedy or f"see rlscan.{kind.capitalize()} for what it must do"
            raise TypeError(f"the {kind} {type(thing).__name__} has no method {name!r}; {remedy}")
        if arguments is not None:
            wanted = ", ".join(arguments)
            require_signature(f"{type(thing).__name__}.{name}", wanted, method, *arguments)


def require_signature(name: str, wanted: str, function: Any, *args: Any, **kwargs: Any) -> None:
    """Raise `TypeError` unless `function` takes the arguments, which `wanted` describes."""
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        is_gymnax = "'params'" in str(error)
        hint = "; wrap it: rlscan.envs.GymnaxEnvironment(env, params)" if is_gymnax else ""
        raise TypeError(
            f"{name} must take ({wanted}), got {name}{signature}: {error}{hint}"
        ) from None


def require_hashable(env: Any) -> None:
    """Raise `TypeError` unless JAX can keep an environment, apart from its arrays, as a constant.

    `eqx.filter_jit` looks up a compiled program by its constants.
    """
    for path, leaf in tree_flatten_with_path(env)[0]:
        if eqx.is_array(leaf):
            continue
        try:
            hash(leaf)
        except TypeError as error:
            raise TypeError(
                "an environment must be hashable, because it is a constant of the compiled "
                f"program, but env{keystr(path)} is not: {error}; make the class an eqx.Module or "
                "a dataclass with frozen=True, and hold tuples in place of lists and dicts"
            ) from None
