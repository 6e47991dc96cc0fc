"""`FrameStack`: an environment of which the last observations are seen at once."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ._pytree import in_dtypes_of, strong, where
from ._spaces import ACTION_MASK, Box, Nested, bounds, is_box, is_discrete, parts_of, space_dtype
from ._types import Environment, PyTree, StepResult


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
