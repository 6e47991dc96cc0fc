"""`check_policy`: what would go wrong in a rollout, said before anything is compiled."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    _require_methods(
        env,
        "environment",
        {
            "reset": ("key",),
            "step": ("key", "state", "action"),
            "observation_space": (),
            "action_space": (),
        },
    )
    _require_methods(policy, "policy", {"__call__": None, "initial_state": ()})
    _check_time_limit(env)

    def trace(key: PRNGKeyArray) -> None:
        observation, env_state = _check_reset(env.reset(key))
        state = strong(policy.initial_state())
        distribution = _check_call(policy, observation, state, key)
        action = distribution.sample(seed=key)
        _check_action(env.action_space(), distribution, action)
        _check_density(distribution, action)
        _check_step(env.step(key, env_state, action), observation, env_state)

    jax.eval_shape(trace, make_key(0))


def _require_methods(thing: Any, kind: str, methods: dict[str, tuple[str, ...] | None]) -> None:
    """Each method is there, and takes the positional arguments that are named for it, if any."""
    if isinstance(thing, type):
        raise TypeError(f"the {kind} must be an object, got the class {thing.__name__}; build one")
    for name, arguments in methods.items():
        method = getattr(thing, name, None)
        if not callable(method):
            raise TypeError(
                f"the {kind} {type(thing).__name__} has no method {name!r}; "
                f"rlscan.{kind.capitalize()} says what it must do"
            )
        if arguments is not None:
            wanted = ", ".join(arguments)
            _require_signature(f"{type(thing).__name__}.{name}", wanted, method, *arguments)


def _require_signature(name: str, wanted: str, function: Any, *args: Any, **kwargs: Any) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        is_gymnax = "'params'" in str(error)
        hint = "; wrap it: rlscan.GymnaxEnvironment(env, params)" if is_gymnax else ""
        raise TypeError(
            f"{name} must take ({wanted}), got {name}{signature}: {error}{hint}"
        ) from None


def _check_time_limit(env: Any) -> None:
    limit = getattr(env, "time_limit", None)
    is_integer = isinstance(limit, int | np.integer) and not isinstance(limit, bool)
    if limit is not None and not (is_integer and limit > 0):
        raise ValueError(
            f"{type(env).__name__}.time_limit must be a positive integer, a number of steps, "
            f"got {limit!r}; leave it out where episodes may be truncated at any step"
        )


def _check_reset(result: Any) -> tuple[PyTree, PyTree]:
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"env.reset must return (observation, state), got {_shape_of(result)}")
    return result


def _check_call(policy: Any, observation: PyTree, state: PyTree, key: PRNGKeyArray) -> Any:
    """Calls the policy and returns its distribution."""
    name = type(policy).__name__
    # Unwrapped, as Python 3.13 does not see through `eqx.filter_jit` on a method.
    call = inspect.unwrap(type(policy).__call__).__get__(policy)
    _require_signature(
        f"{name}.__call__", "observation, state, *, key", call, observation, state, key=key
    )
    try:
        result = policy(observation, state, key=key)
    except Exception as error:
        seen = jax.tree.map(_shape_of, observation)
        error.add_note(f"raised in {name}.__call__, for an observation of the environment: {seen}")
        raise
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
    elif is_box(space):
        wants_floats = jnp.issubdtype(getattr(space, "dtype", jnp.float32), jnp.floating)
        right_kind = not wants_floats or jnp.issubdtype(jnp.result_type(action), jnp.floating)
        if shape != tuple(space.shape) or not right_kind:
            raise ValueError(
                f"the environment takes {'floats' if wants_floats else 'actions'} of shape "
                f"{tuple(space.shape)} (Box), but the policy's distribution samples "
                f"{_shape_of(action)}; use "
                f"distrax.Independent(distrax.Normal(mean, scale), {len(space.shape)}) "
                f"with a mean of shape {tuple(space.shape)}"
            )


def _check_density(distribution: Any, action: PyTree) -> None:
    try:
        entropy = distribution.entropy()
    except NotImplementedError as error:
        raise TypeError(
            f"the distribution {type(distribution).__name__} has no entropy, which replay returns "
            f"({error}); give it a method `entropy`, such as the base distribution's or an estimate"
        ) from error
    for name, number in (("log_prob", distribution.log_prob(action)), ("entropy", entropy)):
        if jnp.shape(number) != ():
            raise ValueError(
                f"the {name} of one action must be a scalar, got {_shape_of(number)}; "
                "join the parts of an action with distrax.Independent(…, 1)"
            )


def _check_step(result: Any, observation: PyTree, env_state: PyTree) -> None:
    if not (isinstance(result, tuple) and len(result) == 6):
        raise TypeError(
            "env.step must return six values (observation, state, reward, terminated, truncated, "
            f"info), got {len(result) if isinstance(result, tuple) else _shape_of(result)}; "
            "terminated and truncated are two flags, and info a dict"
        )
    new_observation, new_state, reward, terminated, truncated, info = result
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
    _require_same("the state of env.step", new_state, "env.reset's", env_state)
    final = info["final_observation"]
    _require_same(
        "info['final_observation']", final, "the observation of env.step", new_observation
    )


def _require_same(name: str, got: PyTree, wanted_name: str, wanted: PyTree) -> None:
    """Same structure and shapes; numbers count as arrays, and dtypes may differ.

    A reset may return integers where a step returns floats: the rollout takes the step's dtype.
    """
    got_leaves, got_structure = tree_flatten_with_path(got)
    wanted_leaves, wanted_structure = tree_flatten_with_path(wanted)
    if got_structure != wanted_structure:
        raise ValueError(
            f"{name} must have the structure of {wanted_name}, {wanted_structure}, "
            f"got {got_structure}"
        )
    for (path, g), (_, w) in zip(got_leaves, wanted_leaves, strict=True):
        got_shape, wanted_shape = (getattr(leaf, "shape", ()) for leaf in (g, w))
        if got_shape != wanted_shape:
            raise ValueError(
                f"{name}{keystr(path)} must have the shape {wanted_shape} of {wanted_name}, "
                f"got {got_shape}"
            )


def _shape_of(tree: PyTree) -> str:
    """`float32[3]` for an array, the type's name for what is none."""
    if isinstance(tree, tuple):
        return f"a tuple of {len(tree)}: ({', '.join(map(_shape_of, tree))})"
    if hasattr(tree, "dtype") and hasattr(tree, "shape"):
        return f"{tree.dtype}{list(tree.shape)}"
    return f"a {type(tree).__name__}"
