"""`AutoReset`: an `rlscan.Environment` from one that never resets itself."""

from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from .._core.require import require_positive
from .._core.tree import as_strong_arrays
from .._core.types import PyTree, StepResult
from ._eager import jitted
from ._reset import reset_where


@runtime_checkable
class RawEnvironment(Protocol):
    """An environment that goes on after an end: what `AutoReset` takes."""

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Start an episode, and return `(observation, state)`."""
        ...

    def step(
        self, key: PRNGKeyArray, state: Any, action: Any
    ) -> tuple[PyTree, PyTree, Any, Any, Any]:
        """Take a step, and return `(observation, state, reward, terminated, truncated)`.

        They are those of this step even if the episode ends with it: nothing is reset here.
        """
        ...

    def observation_space(self) -> Any:
        """The space of observations, as for `rlscan.Environment`."""
        ...

    def action_space(self) -> Any:
        """The space of actions, as for `rlscan.Environment`."""
        ...


class AutoReset(eqx.Module):
    """An environment that resets another one, which never resets itself.

    It does what an adapter of another suite has to do to follow the contract of
    `rlscan.Environment`: it counts a time limit, resets with a key that is split from the step's,
    keeps the last observation of an episode as `info["final_observation"]`, and its last state as
    `info["final_state"]`. If a step both terminates and truncates an episode, it is terminated.
    Rewards become float32, and flags of any dtype booleans.

    **Example:** a walk to 1, cut after 100 steps.

    ```python
    import jax, rlscan

    class Walk:
        def reset(self, key):
            position = jax.random.uniform(key, (1,))
            return position, position

        def step(self, key, state, action):
            position = state + 0.1 * (2 * action - 1)
            return position, position, -1.0, position[0] > 1, False

        def observation_space(self):
            return rlscan.envs.Box(-float("inf"), float("inf"), (1,))

        def action_space(self):
            return rlscan.envs.Discrete(2)

    env = rlscan.envs.AutoReset(Walk(), time_limit=100)
    observation, state = env.reset(jax.random.key(0))
    ```
    """

    env: RawEnvironment
    """The environment that never resets itself."""
    final_slots: int | None = eqx.field(static=True)
    """The number of last observations that a rollout keeps for each environment, if declared."""
    _limit: int | None = eqx.field(static=True)

    def __init__(
        self, env: RawEnvironment, *, time_limit: int | None = None, final_slots: int | None = None
    ):
        """**Arguments:**

        - `env`: an environment that never resets itself, see `rlscan.envs.RawEnvironment`.
        - `time_limit`: the number of steps after which an episode is truncated. `None` if the
            environment has no limit, or truncates its episodes itself.
        - `final_slots`: the number of last observations that a rollout keeps for each environment,
            see `rlscan.Environment`. Give it if `env` may truncate an episode itself before
            `time_limit`; 1 is enough if it never truncates any.

        **Raises:** `ValueError` unless both are positive integers or `None`.
        """
        for name, count in (("time_limit", time_limit), ("final_slots", final_slots)):
            if count is not None:
                require_positive(name, count)
        self.env, self.final_slots, self._limit = env, final_slots, time_limit

    def __repr__(self) -> str:
        counts = {"time_limit": self._limit, "final_slots": self.final_slots}
        given = "".join(f", {name}={n}" for name, n in counts.items() if n is not None)
        return f"{type(self).__name__}({self.env!r}{given})"

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, "AutoResetState"]:
        return jitted(AutoReset._reset, self, key)

    def step(self, key: PRNGKeyArray, state: "AutoResetState", action: PyTree) -> StepResult:
        return jitted(AutoReset._step, self, key, state, action)

    def _reset(self, key: PRNGKeyArray) -> tuple[PyTree, "AutoResetState"]:
        observation, state = as_strong_arrays(self.env.reset(key))
        return observation, AutoResetState(state, jnp.zeros((), jnp.int32))

    def _step(self, key: PRNGKeyArray, state: "AutoResetState", action: PyTree) -> StepResult:
        step_key, reset_key = jax.random.split(key)
        observation, inner, reward, terminated, truncated = as_strong_arrays(
            self.env.step(step_key, state.env_state, action)
        )
        time = state.time + 1
        terminated, truncated = jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
        if self._limit is not None:
            truncated = truncated | (time >= self._limit)
        truncated = truncated & ~terminated
        after = AutoResetState(inner, time)
        next_observation, next_state = reset_where(
            terminated | truncated, lambda: self._reset(reset_key), (observation, after)
        )
        info = {"final_observation": observation, "final_state": after}
        reward = jnp.asarray(reward, jnp.float32)
        return next_observation, next_state, reward, terminated, truncated, info

    def observation_space(self) -> Any:
        return self.env.observation_space()

    def action_space(self) -> Any:
        return self.env.action_space()

    @property
    def time_limit(self) -> int | None:
        """The number of steps until truncation, if no episode is truncated earlier."""
        return self._limit if self.final_slots is None else None


class AutoResetState(eqx.Module):
    """The state of an `AutoReset`."""

    env_state: PyTree
    time: Int[Array, "*N"]  # steps of the episode so far
