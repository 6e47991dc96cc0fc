"""`check_policy`: what would go wrong in a rollout, said before anything is compiled."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path
from jaxtyping import PRNGKeyArray

from ._pytree import strong
from ._random import key as make_key
from ._spaces import is_box, is_discrete
from ._types import PyTree


def check_policy(policy: Any, env: Any) -> None:
    """Checks that a policy and an environment keep their contracts, and fit each other.

    Traces one reset, one call and one step abstractly: nothing is compiled or computed.

    **Arguments:**

    - `policy`: an `eqx.Module` by the contract of `rlscan.Policy`.
    - `env`: anything by the contract of `rlscan.Environment`.

    **Raises:** `TypeError` for a missing method or a wrong signature or type, `ValueError` for a
    wrong shape or an action that the environment does not take. The message says what was
    required, what was got, and what to change.
    """
    _require_methods(env, "environment", ("reset", "step", "observation_space", "action_space"))
    _require_methods(policy, "policy", ("__call__", "initial_state"))
    if isinstance(policy, type):
        raise TypeError(f"policy must be an object, got the class {policy.__name__}; build one")

    def trace(key: PRNGKeyArray) -> None:
        observation, env_state = _check_reset(env.reset(key))
        state = strong(policy.initial_state())
        distribution = _check_call(policy, observation, state, key)
        action = distribution.sample(seed=key)
        _check_action(env.action_space(), distribution, action)
        _check_density(distribution, action)
        _check_step(env.step(key, env_state, action), observation)

    jax.eval_shape(trace, make_key(0))


def _require_methods(thing: Any, kind: str, names: tuple[str, ...]) -> None:
    for name in names:
        if not callable(getattr(thing, name, None)):
            raise TypeError(
                f"the {kind} {type(thing).__name__} has no method {name!r}; "
                f"rlscan.{kind.capitalize()} says what it must do"
            )


def _check_reset(result: Any) -> tuple[PyTree, PyTree]:
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"env.reset must return (observation, state), got {_shape_of(result)}")
    return result


def _check_call(policy: Any, observation: PyTree, state: PyTree, key: PRNGKeyArray) -> Any:
    """Calls the policy and returns its distribution."""
    name = type(policy).__name__
    try:
        inspect.signature(policy).bind(observation, state, key=key)
    except TypeError as error:
        raise TypeError(
            f"{name}.__call__ must take (observation, state, *, key), "
            f"got {name}.__call__{inspect.signature(policy)}: {error}"
        ) from None
    result = policy(observation, state, key=key)
    if not (isinstance(result, tuple) and len(result) == 3):
        raise TypeError(
            f"{name}.__call__ must return (distribution, value, state), got {_shape_of(result)}; "
            "a feed-forward policy returns its state as it came in"
        )
    distribution, _, new_state = result
    for method in ("sample", "log_prob", "entropy"):
        if not callable(getattr(distribution, method, None)):
            raise TypeError(
                f"the first of what {name}.__call__ returns must be a distribution with "
                f"sample, log_prob and entropy, got {_shape_of(distribution)}; "
                "wrap logits as distrax.Categorical(logits)"
            )
    _require_same(f"the state that {name}.__call__ returns", new_state, "initial_state()", state)
    return distribution


def _check_action(space: Any, distribution: Any, action: PyTree) -> None:
    shape = jax.tree.map(jnp.shape, action)
    if is_discrete(space):
        if shape != () or not jnp.issubdtype(action.dtype, jnp.integer):
            raise ValueError(
                f"the environment takes one integer below {space.n} (Discrete), but the policy's "
                f"distribution samples {_shape_of(action)}; use distrax.Categorical"
            )
        num_categories = getattr(distribution, "num_categories", space.n)
        if num_categories != space.n:
            raise ValueError(
                f"the environment takes {space.n} actions (Discrete), but the policy's "
                f"distribution has {num_categories} categories; give it {space.n} logits"
            )
    elif is_box(space) and shape != tuple(space.shape):
        raise ValueError(
            f"the environment takes actions of shape {tuple(space.shape)} (Box), but the policy's "
            f"distribution samples {_shape_of(action)}; use "
            f"distrax.Independent(distrax.Normal(mean, scale), {len(space.shape)}) "
            f"with a mean of shape {tuple(space.shape)}"
        )


def _check_density(distribution: Any, action: PyTree) -> None:
    for name, number in (
        ("log_prob", distribution.log_prob(action)),
        ("entropy", distribution.entropy()),
    ):
        if jnp.shape(number) != ():
            raise ValueError(
                f"the {name} of one action must be a scalar, got {_shape_of(number)}; "
                "join the parts of an action with distrax.Independent(…, 1)"
            )


def _check_step(result: Any, observation: PyTree) -> None:
    if not (isinstance(result, tuple) and len(result) == 6):
        raise TypeError(
            "env.step must return six values (observation, state, reward, terminated, truncated, "
            f"info), got {len(result) if isinstance(result, tuple) else _shape_of(result)}; "
            "terminated and truncated are two flags, and info a dict"
        )
    new_observation, _, reward, terminated, truncated, info = result
    for name, number in (
        ("reward", reward),
        ("terminated", terminated),
        ("truncated", truncated),
    ):
        if jnp.shape(number) != ():
            raise ValueError(f"env.step must return a scalar {name}, got {_shape_of(number)}")
    if not isinstance(info, dict) or "final_observation" not in info:
        raise ValueError(
            "env.step must keep an episode's last observation in info['final_observation'], "
            f"got info with {sorted(info) if isinstance(info, dict) else _shape_of(info)}; "
            "it is the observation before the reset, at every step"
        )
    _require_same("the observation of env.step", new_observation, "env.reset's", observation)
    final = info["final_observation"]
    _require_same("info['final_observation']", final, "env.reset's observation", observation)


def _require_same(name: str, got: PyTree, wanted_name: str, wanted: PyTree) -> None:
    """Same structure, shapes and kinds of dtype; numbers and weak types count as arrays."""
    got_leaves, got_structure = tree_flatten_with_path(got)
    wanted_leaves, wanted_structure = tree_flatten_with_path(wanted)
    if got_structure != wanted_structure:
        raise ValueError(
            f"{name} must have the structure of {wanted_name}, {wanted_structure}, "
            f"got {got_structure}"
        )
    for (path, g), (_, w) in zip(got_leaves, wanted_leaves, strict=True):
        if jnp.shape(g) != jnp.shape(w):
            raise ValueError(
                f"{name}{keystr(path)} must have the shape {jnp.shape(w)} of {wanted_name}, "
                f"got {jnp.shape(g)}"
            )


def _shape_of(tree: PyTree) -> str:
    """`float32[3]` for an array, the type's name for what is none."""
    if isinstance(tree, tuple):
        return f"a tuple of {len(tree)}: ({', '.join(map(_shape_of, tree))})"
    if hasattr(tree, "dtype") and hasattr(tree, "shape"):
        return f"{tree.dtype}{list(tree.shape)}"
    return f"a {type(tree).__name__}"
