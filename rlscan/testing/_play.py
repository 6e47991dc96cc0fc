"""Steps of an environment under random actions, recorded whole."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

import rlscan


class Played(NamedTuple):
    """T steps of N environments, every leaf `[T, N, …]`."""

    key: Any  # of the step
    state: Any  # before it
    action: Any
    observation: Any  # after it, and after a reset where the episode ended
    state_after: Any  # likewise
    reward: Any
    terminated: Any
    truncated: Any
    final: Any  # info["final_observation"]
    length: Any  # of the episode, this step included


def play(env: Any, draw: Callable, key: Any, num_steps: int, num_envs: int) -> Played:
    """Plays with the actions `draw(key)`."""

    def one(carry: tuple) -> tuple[tuple, Played]:
        key, state, length = carry
        key, action_key, step_key = jax.random.split(key, 3)
        action = draw(action_key)
        result = env.step(jax.random.clone(step_key), state, action)
        observation, after, reward, terminated, truncated, info = result
        after = in_dtypes(state, after)
        length = length + 1
        final = info["final_observation"]
        seen = (observation, after, reward, terminated, truncated, final, length)
        length = jnp.where(terminated | truncated, 0, length)
        return (key, after, length), Played(step_key, state, action, *seen)

    def start(key: Any) -> tuple:
        key, reset_key = jax.random.split(key)
        return key, reset(env, draw, reset_key)[1], jnp.zeros((), jnp.int32)

    @eqx.filter_jit
    def run(keys: Any) -> Played:
        carry = eqx.filter_vmap(start)(keys)
        step = lambda carry, _: eqx.filter_vmap(one)(carry)  # noqa: E731
        return rlscan.filter_scan(step, carry, length=num_steps)[1]

    return run(jax.random.split(key, num_envs))


def reset(env: Any, draw: Callable, key: Any) -> tuple[Any, Any]:
    """`(observation, state)` of a reset, in the dtypes that a step returns."""
    observation, state = env.reset(jax.random.clone(key))
    action = eqx.filter_eval_shape(draw, key)
    after = eqx.filter_eval_shape(env.step, key, state, action)
    return in_dtypes(after[:2], (observation, state))


def in_dtypes(like: Any, tree: Any) -> Any:
    """Numbers as arrays, in the dtypes of another tree's; keys and all else as they are."""

    def convert(wanted: Any, x: Any) -> Any:
        if not hasattr(wanted, "dtype") or jnp.issubdtype(wanted.dtype, jax.dtypes.extended):
            return x
        # Not `asarray`, which leaves a weak type in place.
        return jax.lax.convert_element_type(jnp.asarray(x), wanted.dtype)

    return jax.tree.map(convert, like, tree)


def plain(tree: Any) -> Any:
    """The arrays of a tree, keys as the words that they are made of."""

    def words(x: Any) -> Any:
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(x) if is_key else x

    return jax.tree.map(words, eqx.filter(tree, eqx.is_array))
