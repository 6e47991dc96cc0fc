"""`ObserveOnly`: an environment of which a part is seen."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from .._core.spaces import (
    ACTION_MASK,
    Box,
    Nested,
    bounds,
    is_box,
    is_discrete,
    parts_of,
    space_dtype,
)
from .._core.tree import in_dtypes_of, strong, where
from .._core.types import Environment, PyTree, StepResult


class ObserveOnly(eqx.Module):
    """An environment of which only some numbers of its observation `[d]` are seen.

    `ObserveOnly(rlscan.make("CartPole-v1"), [0, 2])` hides the velocities: what is left to see is
    where cart and pole are, and a policy without memory cannot tell where they are going.
    """

    env: Environment
    indices: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, env: Environment, indices: Sequence[int]):
        """**Arguments:**

        - `env`: whose observations are vectors.
        - `indices`: of the numbers that are seen, in the order in which they will be.

        **Raises:** `ValueError` for another observation, and for an index that it does not have.
        """
        self.env = env
        self.indices = tuple(map(operator.index, indices))
        space = env.observation_space()
        if not (is_box(space) and len(space.shape) == 1):
            raise ValueError(
                f"indices must be of an observation that is a vector (a Box [d]), got {space!r}; "
                "wrap the environment before its frames are stacked or its actions added"
            )
        check_indices("indices", self.indices, space.shape[0])

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        observation, state = self.env.reset(key)
        return self._seen(observation), state

    def step(self, key: PRNGKeyArray, state: PyTree, action: PyTree) -> StepResult:
        observation, state, reward, terminated, truncated, info = self.env.step(key, state, action)
        info = {**info, "final_observation": self._seen(info["final_observation"])}
        return self._seen(observation), state, reward, terminated, truncated, info

    def observation_space(self) -> Box:
        space = self.env.observation_space()
        low, high = (side[list(self.indices)] for side in bounds(space))
        return Box(low, high, low.shape, space_dtype(space))

    def action_space(self) -> Any:
        return self.env.action_space()

    @property
    def time_limit(self) -> int | None:
        return getattr(self.env, "time_limit", None)

    def _seen(self, observation: Array) -> Array:
        return observation[jnp.asarray(self.indices)]


def check_indices(name: str, indices: Sequence[int], size: int | None = None) -> None:
    """Raises `ValueError` for what cannot be the `indices` of `ObserveOnly`."""
    fits = all(0 <= index and (size is None or index < size) for index in indices)
    if not (indices and fits and len(set(indices)) == len(indices)):
        allowed = "from 0" if size is None else f"from 0 to {size - 1}"
        raise ValueError(
            f"{name} must be different indices of an observation, {allowed}, got {list(indices)}; "
            "such as [0, 2]"
        )


class FrameStack(eqx.Module):
    """An environment of which the last n observations are seen at once, the newest last.

    Arrays are joined along their last axis: a vector `[d]` is `[n · d]`, an image `[H, W, C]` is
    `[H, W, n · C]`, a number `[n]`. A Discrete observation is a tuple of n. Dicts and tuples are
    stacked leaf by leaf, but for a dict's `"action_mask"`, of which the newest alone counts. An
    episode begins with n times its first observation.
    """

    env: Environment
    num_frames: int = eqx.field(static=True)

    def __init__(self, env: Environment, num_frames: int):
        """**Arguments:**

        - `env`: whose observations are boxes, Discretes, or dicts and tuples of them.
        - `num_frames`: n.

        **Raises:** `ValueError` for another observation space, or an n that is no positive integer.
        """
        check_num_frames("num_frames", num_frames)
        self.env, self.num_frames = env, int(num_frames)
        self.observation_space()  # raises what it raises here

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, "Stacked"]:
        observation, state = self.env.reset(key)
        frames = self._repeated(strong(observation))
        return frames, Stacked(state, frames)

    def step(self, key: PRNGKeyArray, state: "Stacked", action: PyTree) -> StepResult:
        observation, inner, reward, terminated, truncated, info = self.env.step(
            key, state.env_state, action
        )
        observation = strong(observation)
        last = in_dtypes_of(observation, strong(info["final_observation"]))
        pushed = _pushed(self.env.observation_space(), state.frames, last)
        done = jnp.asarray(terminated | truncated)
        frames = where(done, self._repeated(observation), pushed)
        info = {**info, "final_observation": pushed}
        return frames, Stacked(inner, frames), reward, terminated, truncated, info

    def observation_space(self) -> Any:
        return _stacked_space(self.env.observation_space(), self.num_frames)

    def action_space(self) -> Any:
        return self.env.action_space()

    @property
    def time_limit(self) -> int | None:
        return getattr(self.env, "time_limit", None)

    def _repeated(self, observation: PyTree) -> PyTree:
        return _repeated(self.env.observation_space(), observation, self.num_frames)


class Stacked(eqx.Module):
    """The state of a `FrameStack`."""

    env_state: PyTree
    frames: PyTree  # the last observation, stacked


def check_num_frames(name: str, number: Any) -> None:
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
        raise ValueError(f"{name} must be a positive integer, got {number!r}; 1 stacks nothing")


def _stacked_space(space: Any, num_frames: int) -> Any:
    parts = parts_of(space)
    if isinstance(parts, dict):
        return Nested(
            {
                name: part if name == ACTION_MASK else _stacked_space(part, num_frames)
                for name, part in parts.items()
            }
        )
    if parts is not None:
        return Nested(tuple(_stacked_space(part, num_frames) for part in parts))
    if is_discrete(space):
        return Nested((space,) * num_frames)
    if not is_box(space):
        raise ValueError(
            f"FrameStack stacks a Box, a Discrete, or dicts and tuples of them, got {space!r}"
        )
    # NumPy, as bounds are constants, also where this is being traced.
    low, high = (
        np.concatenate([np.atleast_1d(side)] * num_frames, axis=-1) for side in bounds(space)
    )
    return Box(low, high, low.shape, space_dtype(space))


def _repeated(space: Any, observation: PyTree, num_frames: int) -> PyTree:
    def repeat(space: Any, x: Array) -> PyTree:
        return (x,) * num_frames if is_discrete(space) else _joined([x] * num_frames)

    return _leafwise(repeat, space, observation)


def _pushed(space: Any, frames: PyTree, newest: PyTree) -> PyTree:
    """The frames with a new one, and without the oldest."""

    def push(space: Any, x: Array, frames: PyTree) -> PyTree:
        if is_discrete(space):
            return (*frames[1:], x)
        width = jnp.atleast_1d(x).shape[-1]
        return _joined([frames[..., width:], x])

    return _leafwise(push, space, newest, frames)


def _joined(frames: list) -> Array:
    return jnp.concatenate([jnp.atleast_1d(frame) for frame in frames], axis=-1)


def _leafwise(f: Callable, space: Any, newest: PyTree, *others: PyTree) -> PyTree:
    """`f(space, newest, *others)` for each Box and Discrete; the newest of an action mask, and of
    what a dict has beside its space."""
    parts = parts_of(space)
    if isinstance(parts, dict):
        return {
            name: _leafwise(f, parts[name], x, *(other[name] for other in others))
            if name in parts and name != ACTION_MASK
            else x
            for name, x in newest.items()
        }
    if parts is not None:
        each = zip(parts, newest, *others, strict=True)
        return tuple(_leafwise(f, *of_part) for of_part in each)
    return f(space, newest, *others)


class LastActionReward(eqx.Module):
    """An environment that shows, beside its observation, what was done last and what it gave.

    An observation is a dict: `{"observation": …, "last_action": …, "last_reward": …}`; one that is
    a dict already gets the last two beside its own. The action is the one that was sent to the
    environment, in the space of its actions; the reward is a number as it came. An episode begins
    with an action and a reward of 0 (the first action, where they are integers that count from
    another `start`).

    Source: Duan et al., *RL²: Fast Reinforcement Learning via Slow Reinforcement Learning*, 2016,
    arXiv:1611.02779, §2.2; without their flag of termination, as a policy's memory is reset here.
    """

    env: Environment

    def reset(self, key: PRNGKeyArray) -> tuple[dict[str, PyTree], PyTree]:
        observation, state = self.env.reset(key)
        return _beside(observation, self._nothing()), state

    def step(self, key: PRNGKeyArray, state: PyTree, action: PyTree) -> StepResult:
        observation, state, reward, terminated, truncated, info = self.env.step(key, state, action)
        added = strong({"last_action": action, "last_reward": jnp.asarray(reward, jnp.float32)})
        last = _beside(info["final_observation"], added)
        done = jnp.asarray(terminated | truncated)
        first = in_dtypes_of(added, self._nothing())
        seen = _beside(observation, where(done, first, added))
        return seen, state, reward, terminated, truncated, {**info, "final_observation": last}

    def observation_space(self) -> Nested:
        space = self.env.observation_space()
        parts = parts_of(space)
        added = {"last_action": self.env.action_space(), "last_reward": Box(-np.inf, np.inf, ())}
        return Nested(_beside(parts if isinstance(parts, dict) else space, added))

    def action_space(self) -> Any:
        return self.env.action_space()

    @property
    def time_limit(self) -> int | None:
        return getattr(self.env, "time_limit", None)

    def _nothing(self) -> dict[str, PyTree]:
        return {"last_action": _zero(self.env.action_space()), "last_reward": jnp.zeros(())}


def _beside(observation: PyTree, added: dict[str, PyTree]) -> dict[str, PyTree]:
    parts = observation if isinstance(observation, dict) else {"observation": observation}
    if taken := parts.keys() & added.keys():
        raise ValueError(
            f"the observation has {' and '.join(sorted(taken))} already; wrap the environment once"
        )
    return {**parts, **added}


def _zero(space: Any) -> PyTree:
    """An action of zeros, or the first of several."""
    parts = parts_of(space)
    if isinstance(parts, dict):
        return {name: _zero(part) for name, part in parts.items()}
    if parts is not None:
        return tuple(map(_zero, parts))
    dtype = jnp.int32 if is_discrete(space) else space_dtype(space)
    start = 0 if is_box(space) else getattr(space, "start", 0)
    return jnp.broadcast_to(jnp.asarray(start, dtype), getattr(space, "shape", ()))
