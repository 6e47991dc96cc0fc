"""`check_policy`: finds errors of a policy and an environment before anything is compiled."""

import inspect
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path
from jaxtyping import PRNGKeyArray

from .._core.require import is_positive_integer
from .._core.roles import (
    require_environment,
    require_hashable,
    require_policy,
    require_signature,
)
from .._core.scan import describe, first_structural_difference, same_value
from .._core.spaces import (
    Path,
    SpaceMismatch,
    is_box,
    is_composite,
    is_discrete,
    map_space,
    num_categories,
)
from .._core.tree import as_strong_arrays, is_key, map_arrays
from .._core.types import PyTree
from ..random._keys import KeyLike, as_key, generator_of, key as make_key
from .effects import check_effects
from .noise import (
    CallInputs,
    CallOutputs,
    check_constants,
    check_draws,
    check_initial_state,
    check_layers,
    trace,
)


def check_policy(policy: Any, env: Any, *, key: KeyLike | None = None) -> None:
    """Check that a policy and an environment follow their contracts, and fit each other.

    One reset, two calls and one step are traced; nothing is compiled or computed. Apart from
    signatures and shapes, the check covers what makes a rollout replayable: all noise before the
    distribution is drawn from `key`, and flags, rates and statistics do not change.

    **Arguments:**

    - `policy`: an `eqx.Module` that follows the contract of `rlscan.Policy`.
    - `env`: an object that follows the contract of `rlscan.Environment`.
    - `key`: a key of the generator that rollouts will draw from; by default one of `mix32`.

    **Raises:** `TypeError` for a missing method, a wrong signature or type, or an environment that
    cannot be hashed; `ValueError` for a wrong shape, an action that the environment does not
    accept, noise that cannot be replayed, or a side effect that cannot be mapped. The message names
    the leaf, and says what was required, what was found and what to change.
    """
    require_policy(policy)
    require_environment(env)
    require_hashable(env)
    _check_time_limit(env)

    check_layers(policy)

    def trace_all(key: PRNGKeyArray) -> None:
        reset_key, policy_key, action_key, step_key = jax.random.split(key, 4)
        observation, env_state = _check_reset(env.reset(reset_key))
        state = policy.initial_state()
        check_initial_state(state)
        inputs = CallInputs(
            policy_key, action_key, as_strong_arrays(observation), as_strong_arrays(state), policy
        )
        action = _check_policy_call(inputs, env.action_space())
        _check_step(env.step(step_key, env_state, action), observation, env_state)

    try:
        program = jax.make_jaxpr(trace_all)(make_key(0) if key is None else as_key(key))
    except NotImplementedError as error:
        if "only implemented for the threefry2x32" in str(error):  # jax.random.poisson
            error.add_note("convert its key: rlscan.random.as_threefry(key) works for all keys")
        raise
    check_effects(f"{type(env).__name__}.reset or step", program)


def _check_policy_call(inputs: CallInputs, action_space: Any) -> PyTree:
    """Trace a call on its own to find its dependencies; returns an action of its shape."""

    def call(inputs: CallInputs) -> tuple[Any, CallOutputs]:
        distribution, value, new_state = _check_call(*inputs)
        states = zip(jax.tree.leaves(inputs.state), jax.tree.leaves(new_state), strict=True)
        after = [jnp.asarray(new) for old, new in states if eqx.is_array(old)]
        return distribution, CallOutputs([*_arrays(distribution), *_arrays(value)], after, [])

    def call_and_sample(inputs: CallInputs) -> tuple[CallOutputs, PyTree]:
        distribution, outputs = call(inputs)
        action = distribution.sample(seed=inputs.action_key)
        _check_action(action_space, distribution, action)
        density = [*_arrays(action), *_check_density(distribution, action)]
        return outputs._replace(density=density), action

    program, (shapes, action) = trace(call_and_sample, inputs)
    check_effects(f"{type(inputs.policy).__name__}.__call__ or its distribution", program)
    check_draws(program, shapes, inputs)
    check_constants(program, lambda inputs: call(inputs)[1], inputs)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), action)


def _arrays(tree: PyTree) -> list[Any]:
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if eqx.is_array_like(leaf)]


def _check_time_limit(env: Any) -> None:
    counts = {
        "time_limit": "a number of steps",
        "final_slots": "a number of truncations in one rollout",
    }
    for name, what in counts.items():
        count = getattr(env, name, None)
        if not (count is None or is_positive_integer(count)):
            raise ValueError(
                f"{type(env).__name__}.{name} must be a positive integer, {what}, "
                f"got {count!r}; leave it out if episodes may be truncated at any step"
            )


def check_state(policy: Any, env: Any, state: Any) -> None:
    """Raise `ValueError` for the state of a rollout of another environment or policy, `[N, …]`."""
    observation, env_state = eqx.filter_eval_shape(env.reset, state.key[0])
    one = map_arrays(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state)
    for name, source, wanted in (
        ("env_state", "that of env.reset", env_state),
        ("observation", "that of env.reset", observation),
        ("policy_state", "policy.initial_state()", policy.initial_state()),
    ):
        try:
            _require_same(f"state.{name}", getattr(one, name), source, wanted)
        except ValueError as error:
            raise ValueError(
                "a rollout must go on from a state of its own environment and policy: "
                f"{str(error).split('; at')[0]}; start with rlscan.init_rollout(policy, env, …)"
            ) from None


def _check_reset(result: Any) -> tuple[PyTree, PyTree]:
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"env.reset must return (observation, state), got {_shape_of(result)}")
    return result


def _check_call(
    key: PRNGKeyArray, action_key: PRNGKeyArray, observation: PyTree, state: PyTree, policy: Any
) -> tuple[Any, Any, PyTree]:
    """Call the policy, and check the structure of its results."""
    name = type(policy).__name__
    # Python 3.13 does not see the signature of a method through `eqx.filter_jit`.
    call = inspect.unwrap(type(policy).__call__).__get__(policy)
    require_signature(
        f"{name}.__call__", "observation, state, *, key", call, observation, state, key=key
    )
    try:
        result = policy(observation, state, key=key)
    except Exception as error:
        seen = jax.tree.map(_shape_of, observation)
        error.add_note(f"raised in {name}.__call__, for an observation of the environment: {seen}")
        if isinstance(error, NameError) and "unbound axis name" in str(error):
            error.add_note(
                "a layer reduces over a named axis, as eqx.nn.BatchNorm does in training mode, but "
                "a policy is called for one observation; use rlscan.nn.WithStatistics, or "
                "inference mode"
            )
        raise
    if not (isinstance(result, tuple) and len(result) == 3):
        raise TypeError(
            f"{name}.__call__ must return (distribution, value, state), got {_shape_of(result)}; "
            "a feed-forward policy returns its state unchanged"
        )
    distribution, _, new_state = result
    for method in ("sample", "log_prob", "entropy"):
        if not callable(getattr(distribution, method, None)):
            raise TypeError(
                f"the first value that {name}.__call__ returns must be a distribution with "
                f"sample, log_prob and entropy, got {_shape_of(distribution)}; "
                "wrap logits as distrax.Categorical(logits)"
            )
    if jax.tree_util.all_leaves([distribution]):
        raise TypeError(
            f"the distribution that {name}.__call__ returns must be a pytree, because its "
            f"parameters are looked for among its leaves, got {_shape_of(distribution)}, a class "
            "that JAX does not know; make the class an eqx.Module"
        )
    returned = f"the state that {name}.__call__ returns"
    _require_same(returned, new_state, "initial_state()", state)
    _require_static(returned, new_state, state)
    return result


def _check_action(space: Any, distribution: Any, action: PyTree) -> None:
    """Check that a sample has the structure, shapes and dtypes of the action space."""
    joint = is_composite(space)
    try:
        map_space(partial(_check_leaf, None if joint else distribution), space, action)
    except SpaceMismatch as error:
        takes, samples = _takes(error.path), _samples(error.got)
        raise ValueError(
            f"{takes} {error.wanted}, {samples}; "
            "use rlscan.policies.ActionHead(env.action_space()), which joins the parts"
        ) from None


def _takes(path: Path) -> str:
    place = "".join(f"[{name!r}]" for name in path)
    return f"the environment takes{place and f' at action{place}'}"


def _samples(action: PyTree) -> str:
    return f"but the policy's distribution samples {_shape_of(action)}"


def _check_leaf(distribution: Any, path: Path, space: Any, action: PyTree) -> None:
    takes, samples = _takes(path), _samples(action)
    shape = jax.tree.map(jnp.shape, action)
    if is_discrete(space):
        if shape != () or not _is_integer(action):
            raise ValueError(
                f"{takes} one integer below {space.n} (Discrete), {samples}; "
                "use distrax.Categorical"
            )
        num_logits = getattr(distribution, "num_categories", space.n)
        if num_logits != space.n:
            raise ValueError(
                f"{takes} {space.n} actions (Discrete), but the policy's "
                f"distribution has {num_logits} categories; give it {space.n} logits"
            )
    elif (categories := num_categories(space)) is not None:
        if shape != categories.shape or not _is_integer(action):
            raise ValueError(
                f"{takes} integers of shape {categories.shape} (MultiDiscrete), {samples}; "
                "use rlscan.policies.ActionHead(env.action_space())"
            )
    elif is_box(space):
        wants_floats = jnp.issubdtype(getattr(space, "dtype", jnp.float32), jnp.floating)
        right_kind = not wants_floats or jnp.issubdtype(jnp.result_type(action), jnp.floating)
        if shape != tuple(space.shape) or not right_kind:
            raise ValueError(
                f"{takes} {'floats' if wants_floats else 'actions'} of shape "
                f"{tuple(space.shape)} (Box), {samples}; use "
                f"distrax.Independent(distrax.Normal(mean, scale), {len(space.shape)}) "
                f"with a mean of shape {tuple(space.shape)}"
            )


def _is_integer(action: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(action), jnp.integer)


def _check_density(distribution: Any, action: PyTree) -> list[Any]:
    """The action's log_prob and the distribution's entropy, both checked to be scalars."""
    try:
        entropy = distribution.entropy()
    except NotImplementedError as error:
        raise TypeError(
            f"the distribution {type(distribution).__name__} has no entropy, which replay returns "
            f"({error}); give it a method `entropy`, such as the base distribution's or an estimate"
        ) from error
    log_prob = distribution.log_prob(action)
    for name, number in (("log_prob", log_prob), ("entropy", entropy)):
        if jnp.shape(number) != ():
            raise ValueError(
                f"the {name} of one action must be a scalar, got {_shape_of(number)}; "
                "join the parts of an action with distrax.Independent(…, 1)"
            )
    return [jnp.asarray(log_prob), jnp.asarray(entropy)]


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
    """Require the same structure and shapes; numbers count as arrays, and dtypes may differ.

    A reset may return integers and a step floats: the rollout uses the dtypes of the step. Keys
    have no common dtype, so their generators must agree.
    """
    got_leaves, got_structure = tree_flatten_with_path(got)
    wanted_leaves, wanted_structure = tree_flatten_with_path(wanted)
    if got_structure != wanted_structure:
        path, was, became = first_structural_difference(wanted, got, ())
        raise ValueError(
            f"{name} must have the structure of {wanted_name}, {wanted_structure}, "
            f"got {got_structure}; at {name}{keystr(path)}, give {was} in place of {became}"
        )
    for (path, g), (_, w) in zip(got_leaves, wanted_leaves, strict=True):
        got_shape, wanted_shape = (getattr(leaf, "shape", ()) for leaf in (g, w))
        if got_shape != wanted_shape:
            raise ValueError(
                f"{name}{keystr(path)} must have the shape {wanted_shape} of {wanted_name}, "
                f"got {got_shape}"
            )
        if (is_key(g) or is_key(w)) and _kind_of(g) != _kind_of(w):
            raise ValueError(
                f"{name}{keystr(path)} must be {_kind_of(w)}, to match {wanted_name}, got "
                f"{_kind_of(g)}; hold keys of one generator in both, that of `key`"
            )


def _kind_of(leaf: Any) -> str:
    if is_key(leaf):
        return f"a key of {generator_of(leaf)}"
    return _shape_of(jnp.asarray(leaf) if eqx.is_array_like(leaf) else leaf)


def _require_static(name: str, got: PyTree, wanted: PyTree) -> None:
    """Require that leaves which are not arrays stay the same.

    The rollout would silently keep the old ones. It has turned numbers into arrays, so these may
    change.
    """
    got_leaves, wanted_leaves = tree_flatten_with_path(got)[0], jax.tree.leaves(wanted)
    for (path, g), w in zip(got_leaves, wanted_leaves, strict=True):
        both_arrays = eqx.is_array(w) and eqx.is_array_like(g)
        if not both_arrays and not same_value(w, g):
            raise TypeError(
                f"{name}{keystr(path)} must stay {describe(w)}, got {describe(g)}: only arrays may "
                "change from step to step; return it unchanged, or hold a number or a jnp array in "
                "initial_state() and branch on it with jnp.where"
            )


def _shape_of(tree: PyTree) -> str:
    """A short description: `float32[3]` for an array, otherwise the name of the type."""
    if isinstance(tree, tuple):
        return f"a tuple of {len(tree)}: ({', '.join(map(_shape_of, tree))})"
    if hasattr(tree, "dtype") and hasattr(tree, "shape"):
        return f"{tree.dtype}{list(tree.shape)}"
    return f"a {type(tree).__name__}"
