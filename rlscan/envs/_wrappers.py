"""`Wrapper`: an environment around another, with three that are ready to use."""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from .._core.environment import action_space_of, observation_space_of, reset_env, step_env
from .._core.require import require_positive
from .._core.spaces import (
    Box,
    Nested,
    Path,
    bounds,
    is_box,
    is_discrete,
    is_mask,
    map_space,
    parts_of,
    space_dtype,
)
from .._core.tree import as_strong_arrays, cast_like, where
from .._core.types import Environment, PyTree, StepResult


class Wrapper(eqx.Module):
    """A base class for environments around another one, which it delegates everything to.

    A subclass overrides what it changes and nothing else. Two rules keep it correct:

    - `step` changes `info["final_observation"]` as it changes the observation. It is the last
      observation of the old episode, while the observation after a reset belongs to the new one.
    - `observation_space` and `action_space` describe what `reset` and `step` return and take.

    **Example:** rewards that are divided by a constant.

    ```python
    import jax, rlscan

    class ScaledReward(rlscan.envs.Wrapper):
        scale: float = 10.0

        def step(self, key, state, action):
            observation, state, reward, *rest = self.env.step(key, state, action)
            return observation, state, reward / self.scale, *rest

    env = ScaledReward(rlscan.make("Pendulum-v1"), scale=16.0)
    observation, state = env.reset(jax.random.key(0))
    ```
    """

    env: Environment
    """The environment inside."""

    def __repr__(self) -> str:
        own = [field.name for field in dataclasses.fields(self) if field.name != "env"]
        texts = [f"{name}={eqx.tree_pformat(getattr(self, name), width=10**6)}" for name in own]
        return f"{type(self).__name__}({', '.join([f'env={self.env!r}', *texts])})"

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        return reset_env(self.env, key)

    def step(self, key: PRNGKeyArray, state: PyTree, action: PyTree) -> StepResult:
        return step_env(self.env, key, state, action)

    def observation_space(self) -> Any:
        return observation_space_of(self.env)

    def action_space(self) -> Any:
        return action_space_of(self.env)

    @property
    def time_limit(self) -> int | None:
        """The inner environment's time limit in steps; `None` if it has none."""
        return getattr(self.env, "time_limit", None)

    @property
    def keeps_state(self) -> bool:
        """Whether the inner environment keeps a state outside of the one that it returns."""
        return getattr(self.env, "keeps_state", False)

    @property
    def final_slots(self) -> int | None:
        """The inner environment's number of slots for last observations; `None` if it has none."""
        return getattr(self.env, "final_slots", None)


class ObserveOnly(Wrapper):
    """An environment that shows only some entries of its observation `[d]`.

    `ObserveOnly(rlscan.make("CartPole-v1"), [0, 2])` hides the velocities. The policy observes the
    positions of cart and pole, and needs memory to tell where they are going.
    """

    indices: tuple[int, ...] = eqx.field(static=True)
    """The entries that are shown, in order."""

    def __init__(self, env: Environment, indices: Sequence[int]):
        """**Arguments:**

        - `env`: an environment whose observations are vectors.
        - `indices`: the entries to show, in the order in which they will stand.

        **Raises:** `ValueError` if observations are not vectors, or have no such entry.
        """
        self.env = env
        self.indices = tuple(map(operator.index, indices))
        space = observation_space_of(env)
        if not (is_box(space) and len(space.shape) == 1):
            raise ValueError(
                f"indices must be of an observation that is a vector (a Box [d]), got {space!r}; "
                "use ObserveOnly inside of FrameStack and LastActionReward, not around them"
            )
        check_indices("indices", self.indices, space.shape[0])

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        observation, state = reset_env(self.env, key)
        return self._select(observation), state

    def step(self, key: PRNGKeyArray, state: PyTree, action: PyTree) -> StepResult:
        observation, state, reward, terminated, truncated, info = step_env(
            self.env, key, state, action
        )
        info = {**info, "final_observation": self._select(info["final_observation"])}
        return self._select(observation), state, reward, terminated, truncated, info

    def observation_space(self) -> Box:
        space = observation_space_of(self.env)
        low, high = (side[list(self.indices)] for side in bounds(space))
        return Box(low, high, low.shape, space_dtype(space))

    def _select(self, observation: Array) -> Array:
        return observation[jnp.asarray(self.indices)]


def check_indices(name: str, indices: Sequence[int], size: int | None = None) -> None:
    """Raise `ValueError` for indices that `ObserveOnly` does not accept."""
    fits = all(0 <= index and (size is None or index < size) for index in indices)
    if not (indices and fits and len(set(indices)) == len(indices)):
        allowed = "from 0" if size is None else f"from 0 to {size - 1}"
        raise ValueError(
            f"{name} must be different indices of an observation, {allowed}, got {list(indices)}; "
            "such as [0, 2]"
        )


class FrameStack(Wrapper):
    """An environment that shows its last n observations at once, the newest last.

    Arrays are joined along their last axis: a vector `[d]` becomes `[n · d]`, an image `[H, W, C]`
    becomes `[H, W, n · C]`, a number `[n]`. A Discrete observation becomes a tuple of n. Dicts and
    tuples are stacked leaf by leaf, except for a dict's `"action_mask"`: the newest mask is kept.
    An episode begins with n copies of its first observation.
    """

    num_frames: int = eqx.field(static=True)
    """The number of observations that are shown."""

    def __init__(self, env: Environment, num_frames: int):
        """**Arguments:**

        - `env`: an environment whose observations are Boxes, Discretes, or dicts and tuples of
            them.
        - `num_frames`: n; 1 stacks nothing.

        **Raises:** `ValueError` for another observation space, or if n is not a positive integer.
        """
        num_frames = require_positive("num_frames", num_frames)
        self.env, self.num_frames = env, num_frames
        self.observation_space()  # so that a space that cannot be stacked is refused here

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, "FrameStackState"]:
        observation, state = reset_env(self.env, key)
        frames = self._repeat(observation)
        return frames, FrameStackState(state, frames)

    def step(self, key: PRNGKeyArray, state: "FrameStackState", action: PyTree) -> StepResult:
        observation, inner, reward, terminated, truncated, info = step_env(
            self.env, key, state.env_state, action
        )
        pushed = self._push(state.frames, info["final_observation"])
        frames = where(terminated | truncated, self._repeat(observation), pushed)
        info = {**info, "final_observation": pushed}
        return frames, FrameStackState(inner, frames), reward, terminated, truncated, info

    def observation_space(self) -> Any:
        def stack(path: Path, space: Any) -> Any:
            if is_mask(path):
                return space
            if is_discrete(space):
                return Nested((space,) * self.num_frames)
            if not is_box(space):
                raise ValueError(
                    "FrameStack stacks a Box, a Discrete, or dicts and tuples of them, got "
                    f"{space!r}"
                )
            # NumPy, so that bounds stay constants while this is traced.
            low, high = (
                np.concatenate([np.atleast_1d(side)] * self.num_frames, axis=-1)
                for side in bounds(space)
            )
            return Box(low, high, low.shape, space_dtype(space))

        space = observation_space_of(self.env)
        stacked = map_space(stack, space)
        return stacked if parts_of(space) is None else Nested(stacked)

    def _repeat(self, observation: PyTree) -> PyTree:
        """The stack at the start of an episode."""

        def repeat(path: Path, space: Any, x: Array) -> PyTree:
            if is_mask(path):
                return x
            frames = (x,) * self.num_frames
            return frames if is_discrete(space) else _join(*frames)

        return map_space(repeat, observation_space_of(self.env), observation, allow_extra=True)

    def _push(self, frames: PyTree, newest: PyTree) -> PyTree:
        """The stack with one observation more, without the oldest."""

        def push(path: Path, space: Any, x: Array, frames: PyTree) -> PyTree:
            if is_mask(path):
                return x
            if is_discrete(space):
                return (*frames[1:], x)
            width = jnp.atleast_1d(x).shape[-1]
            return _join(frames[..., width:], x)

        return map_space(push, observation_space_of(self.env), newest, frames, allow_extra=True)


class FrameStackState(eqx.Module):
    """The state of a `FrameStack`."""

    env_state: PyTree
    frames: PyTree  # the last observation, stacked


def _join(*frames: Array) -> Array:
    return jnp.concatenate([jnp.atleast_1d(frame) for frame in frames], axis=-1)


class LastActionReward(Wrapper):
    """An environment that shows the last action and reward beside its observation.

    An observation is a dict `{"observation": …, "last_action": …, "last_reward": …}`; if it is a
    dict already, the last two entries are added to it. The action is the one that the environment
    received, an element of its action space. The reward is a number, unscaled. An episode begins
    with a reward of 0 and an action of 0, or of its space's `start` if integers count from there.

    Source: Duan et al., *RL²: Fast Reinforcement Learning via Slow Reinforcement Learning*, 2016,
    arXiv:1611.02779, §2.2; without their termination flag, because a policy's memory is reset here.
    """

    def reset(self, key: PRNGKeyArray) -> tuple[dict[str, PyTree], PyTree]:
        observation, state = reset_env(self.env, key)
        return _add(observation, self._first_entries()), state

    def step(self, key: PRNGKeyArray, state: PyTree, action: PyTree) -> StepResult:
        observation, state, reward, terminated, truncated, info = step_env(
            self.env, key, state, action
        )
        entries = as_strong_arrays({"last_action": action, "last_reward": reward})
        info = {**info, "final_observation": _add(info["final_observation"], entries)}
        first = cast_like(entries, self._first_entries())
        observation = _add(observation, where(terminated | truncated, first, entries))
        return observation, state, reward, terminated, truncated, info

    def observation_space(self) -> Nested:
        space = observation_space_of(self.env)
        parts = parts_of(space)
        reward = Box(-np.inf, np.inf, ())
        entries = {"last_action": action_space_of(self.env), "last_reward": reward}
        return Nested(_add(parts if isinstance(parts, dict) else space, entries))

    def _first_entries(self) -> dict[str, PyTree]:
        action = map_space(first_action, action_space_of(self.env))
        return {"last_action": action, "last_reward": jnp.zeros(())}


def _add(observation: PyTree, entries: dict[str, PyTree]) -> dict[str, PyTree]:
    parts = observation if isinstance(observation, dict) else {"observation": observation}
    if taken := parts.keys() & entries.keys():
        raise ValueError(
            f"the observation has {' and '.join(sorted(taken))} already; wrap the environment once"
        )
    return {**parts, **entries}


def first_action(_: Path, space: Any) -> Array:
    dtype = jnp.int32 if is_discrete(space) else space_dtype(space)
    start = 0 if is_box(space) else getattr(space, "start", 0)
    return jnp.broadcast_to(jnp.asarray(start, dtype), getattr(space, "shape", ()))
