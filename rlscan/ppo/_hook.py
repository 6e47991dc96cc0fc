"""`OnBatch`: a function of the caller's own, between a rollout and what is learned from it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from .._core.roles import require_signature
from .._core.scan import check_same_carry, describe
from .._core.tree import cast_like, is_shape, map_arrays
from .._core.types import Environment, Policy, PyTree
from .._rollout.state import Trajectory

# `on_batch(policy, trajectory, extra, *, key) -> (trajectory, extra)`, pure. It may have a method
# `init(policy, env, *, key) -> extra`, which makes the first extra; without it that is `()`.
OnBatch = Callable[..., tuple[Trajectory, PyTree]]

_OWN = 0x6F6E626A  # folded into keys whose other uses are splits


def check_hook(on_batch: Any) -> None:
    """Raise `TypeError` unless a hook is none, or can be called as one."""
    if on_batch is None:
        return
    if isinstance(on_batch, type) or not callable(on_batch):
        raise TypeError(
            "on_batch must be a function (policy, trajectory, extra, *, key) -> (trajectory, "
            f"extra), or an object that can be called so, got {describe(on_batch)}"
        )
    wanted = "policy, trajectory, extra, *, key"
    require_signature("on_batch", wanted, on_batch, None, None, None, key=None)
    init = getattr(on_batch, "init", None)
    if init is not None:
        require_signature("on_batch.init", "policy, env, *, key", init, None, None, key=None)


def first_extra(
    on_batch: OnBatch | None, policy: Policy, env: Environment, key: PRNGKeyArray
) -> PyTree:
    """Make a hook's extra before the first update; the key's other uses stay as they are."""
    init = getattr(on_batch, "init", None)
    extra = () if init is None else init(policy, env, key=_own_key(key))
    return cast_like(extra, extra)  # with strong types, as the arrays that replace them have


def require_extra_of(
    on_batch: OnBatch | None, policy: Policy, env: Environment, extra: PyTree, key: PRNGKeyArray
) -> None:
    """Raise `ValueError` unless the extra of a state has the structure that a hook's `init` makes.

    Of several runs everything has an axis of runs, which the structure does not tell.
    """
    if getattr(on_batch, "init", None) is None:
        return
    one = lambda tree: map_arrays(lambda x: x[0], tree) if key.ndim else tree  # noqa: E731
    wanted = eqx.filter_eval_shape(
        lambda policy, key: first_extra(on_batch, one(policy), env, one(key)), policy, key
    )
    arrays = lambda tree: jax.tree.structure(eqx.filter(tree, is_shape))  # noqa: E731
    if arrays(extra) != arrays(wanted):
        raise ValueError(
            f"the extra of a state to go on from must be that of on_batch, got {describe(extra)}; "
            "start with a key, or set it: dataclasses.replace(state, extra=on_batch.init(…))"
        )


def call_hook(
    on_batch: OnBatch | None,
    policy: Policy,
    trajectory: Trajectory,
    extra: PyTree,
    key: PRNGKeyArray,
) -> tuple[Trajectory, PyTree]:
    """Call a hook on a rollout; the key's other uses stay as they are.

    **Raises:** `TypeError` if it returns something else, or changes a structure, shape or dtype.
    """
    if on_batch is None:
        return trajectory, extra
    result = on_batch(policy, trajectory, extra, key=_own_key(key))
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"on_batch must return (trajectory, extra), got {describe(result)}")
    before = trajectory, extra
    for name, was, now in zip(("trajectory", "extra"), before, result, strict=True):
        check_same_carry(was, now, name=name, where="in on_batch", first="the old one")
    return cast_like(before, result)


def _own_key(key: PRNGKeyArray) -> PRNGKeyArray:
    return jax.random.fold_in(jax.random.clone(key), _OWN)
