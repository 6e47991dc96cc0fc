"""Random play for `check_environment`, from few compiled programs, because most of its time is
spent on compiling them."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._conformance import plain


class Steps(NamedTuple):
    """T steps of N environments under random actions; every leaf is `[T, N, …]`.

    Arrays are NumPy's, apart from typed keys in a state.
    """

    key: Any  # of the step
    state: Any  # before the step
    action: Any
    observation: Any  # after the step, and after the reset if the episode ended
    state_after: Any  # likewise
    reward: Any
    terminated: Any
    truncated: Any
    final: Any  # info["final_observation"]
    length: Any  # of the episode, including this step

    @property
    def done(self) -> Any:
        return self.terminated | self.truncated

    def flat(self) -> "Steps":
        """The same steps `[T · N, …]`."""
        size = self.reward.size
        return jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), self)


# What JAX does not map by itself: what runs on the host, and rules of the environment's own.
_NOT_MAPPED_BY_JAX = re.compile(r"\b\w*(callback|custom_vmap|ffi_call)")


class Player:
    """An environment's methods, compiled: `reset` and `step` for N environments, `step_one`."""

    num_envs: int

    def __init__(self, env: Any, draw: Callable, num_envs: int, like: tuple[Any, Any]):
        """`like` are the shapes and dtypes of the observation and the state after a step."""
        self.num_envs, self._draw = num_envs, draw

        def take(key: Any, state: Any, action: Any) -> tuple:
            observation, after, reward, terminated, truncated, info = env.step(key, state, action)
            return observation, after, reward, terminated, truncated, info["final_observation"]

        def step(key: Any, state: Any, action: Any) -> tuple:
            observation, after, *rest = take(key, state, action)
            return observation, _in_dtypes(state, after), *rest

        def start(key: Any) -> tuple:
            return _in_dtypes(like, env.reset(jax.random.clone(key)))

        self.step_one, self._plain_step = jax.jit(step), step
        self._reset, self._step = jax.jit(jax.vmap(start)), jax.jit(jax.vmap(step))

    def play(self, key: Any, num_steps: int) -> Steps:
        """Play T steps in N environments with random actions."""

        def plan(key: Any) -> tuple:
            action_key, step_key = jax.random.split(key)
            return step_key, self._draw(action_key)

        start_key, plan_key = jax.random.split(key)
        shape = num_steps, self.num_envs
        keys, actions = jax.jit(jax.vmap(jax.vmap(plan)))(jax.random.split(plan_key, shape))
        actions = jax.device_get(actions)
        state, rows = self.reset(jax.random.split(start_key, self.num_envs))[1], []
        for t in range(num_steps):
            result = self.step(keys[t], state, at(actions, t))
            rows.append((state, *result))
            state = result[1]
        states, *results = jax.tree.map(lambda *xs: _stack(xs), *rows)
        lengths = _lengths(results[3] | results[4])
        return Steps._make((keys, states, actions, *results, lengths))

    def reset(self, keys: Any) -> tuple:
        """`(observation, state)` for each key, in the dtypes of a step."""
        return self._in_chunks(self._reset, keys)

    def step(self, keys: Any, states: Any, actions: Any) -> tuple:
        """The observation, state, reward, both flags and the last observation, for each key."""
        return self._in_chunks(self._step, keys, states, actions)

    def is_one_program(self, one: Steps) -> bool:
        """Whether a step is known to be the same with and without `vmap`, from traces alone.

        It is if a new trace equals another, and holds nothing that JAX cannot map by itself.
        Compiling a step without `vmap` would take as long as all else in the check.
        """
        inputs = jax.tree.map(_shape, (one.key, one.state, one.action))
        # A new function each time, because JAX keeps the trace of an old one.
        traces = [jax.make_jaxpr(lambda *x: self._plain_step(*x))(*inputs) for _ in range(2)]
        texts = [str(trace.jaxpr) for trace in traces]
        if texts[0] != texts[1] or _NOT_MAPPED_BY_JAX.search(texts[0]):
            return False
        pairs = zip(*(jax.tree.leaves(plain(trace.consts)) for trace in traces), strict=True)
        return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)

    def _in_chunks(self, f: Callable, *inputs: Any) -> tuple:
        """Call `f` for N inputs at a time; the last ones are padded with the first one."""
        size, n = len(inputs[0]), self.num_envs
        if size == n:
            return f(*inputs)
        rows = np.arange(-(-size // n) * n)
        rows[size:] = 0
        results = [jax.device_get(plain(f(*at(inputs, chunk)))) for chunk in rows.reshape(-1, n)]
        return jax.tree.map(lambda *xs: np.concatenate(xs)[:size], *results)


def at(tree: Any, index: Any) -> Any:
    """The entries of the arrays of a tree at an index, or at several."""
    return jax.tree.map(lambda x: x[index], tree)


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _stack(arrays: Any) -> Any:
    is_key = jnp.issubdtype(arrays[0].dtype, jax.dtypes.prng_key)
    return jnp.stack(arrays) if is_key else np.stack(jax.device_get(arrays))


def _lengths(done: np.ndarray) -> np.ndarray:
    """The length of each episode up to each step, `[T, N]`."""
    lengths, length = [], np.zeros(done.shape[1], np.int32)
    for ended in done:
        length = length + 1
        lengths.append(length)
        length = np.where(ended, 0, length)
    return np.asarray(lengths)


def _in_dtypes(like: Any, tree: Any) -> Any:
    """Convert the numbers of a tree to the dtypes of another; keys stay as they are."""

    def convert(wanted: Any, x: Any) -> Any:
        if not hasattr(wanted, "dtype") or jnp.issubdtype(wanted.dtype, jax.dtypes.extended):
            return x
        # Not `asarray` with a dtype, which keeps a weak type.
        return jax.lax.convert_element_type(jnp.asarray(x), wanted.dtype)

    return jax.tree.map(convert, like, tree)
