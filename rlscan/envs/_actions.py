"""`ActionRepeat` and `StickyActions`: wrappers that change which actions are taken."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from .._core.environment import action_space_of, reset_env, step_env
from .._core.require import require_positive, require_rate
from .._core.scan import filter_scan
from .._core.spaces import map_space
from .._core.tree import as_strong_arrays, cast_like, where
from .._core.types import Environment, PyTree, StepResult
from ._wrappers import Wrapper, first_action


class ActionRepeat(Wrapper):
    """An environment in which each action is taken n times in a row.

    The reward is the sum over these steps, undiscounted, and the observation that after the last
    one. An end of the episode ends the repetition. A time limit counts the actions.
    """

    num_repeats: int = eqx.field(static=True)
    """The number of steps for each action."""

    def __init__(self, env: Environment, num_repeats: int):
        """**Arguments:**

        - `env`: an environment.
        - `num_repeats`: n; 1 repeats nothing.

        **Raises:** `ValueError` unless n is a positive integer.
        """
        self.env, self.num_repeats = env, require_positive("num_repeats", num_repeats)

    def step(self, key: PRNGKeyArray, state: PyTree, action: PyTree) -> StepResult:
        keys = jax.random.split(key, self.num_repeats)
        first = as_strong_arrays(step_env(self.env, keys[0], state, action))

        def again(carry: Any, key: PRNGKeyArray) -> tuple[Any, None]:
            _, state, reward, terminated, truncated, _ = carry
            result = as_strong_arrays(step_env(self.env, key, state, action))
            result = (*result[:2], reward + result[2], *result[3:])
            # The observation and the state after an end are those of the next episode.
            return where(terminated | truncated, carry, cast_like(carry, result)), None

        return filter_scan(again, first, keys[1:])[0] if self.num_repeats > 1 else first

    @property
    def time_limit(self) -> int | None:
        """The inner environment's time limit, in actions; `None` if it has none."""
        inner = super().time_limit
        return None if inner is None else -(-inner // self.num_repeats)


class StickyActions(Wrapper):
    """An environment that repeats its last action with some probability, whatever the new one is.

    The action that is repeated is the one that was taken in the step before, which may have been a
    repeated one itself. In the first step of an episode there is none.

    Source: Machado et al., *Revisiting the Arcade Learning Environment*, 2018, arXiv:1709.06009,
    §5.2.
    """

    probability: float = eqx.field(static=True)
    """The probability of a repetition."""

    def __init__(self, env: Environment, probability: float = 0.25):
        """**Arguments:**

        - `env`: an environment.
        - `probability`: ς, the probability of a repetition, in [0, 1).

        **Raises:** `ValueError` for another probability.
        """
        self.env, self.probability = env, require_rate("probability", probability)

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, "StickyActionsState"]:
        observation, state = reset_env(self.env, key)
        return observation, StickyActionsState(state, self._no_action(), jnp.ones((), bool))

    def step(self, key: PRNGKeyArray, state: "StickyActionsState", action: PyTree) -> StepResult:
        step_key, sticky_key = jax.random.split(key)
        sticks = jax.random.bernoulli(sticky_key, self.probability) & ~state.is_first
        action = cast_like(state.last_action, as_strong_arrays(action))
        taken = where(sticks, state.last_action, action)
        observation, inner, reward, terminated, truncated, info = step_env(
            self.env, step_key, state.env_state, taken
        )
        done = terminated | truncated
        # A start keeps nothing of the last episode.
        taken = where(done, self._no_action(), taken)
        after = StickyActionsState(inner, taken, done)
        return observation, after, reward, terminated, truncated, info

    def _no_action(self) -> PyTree:
        return map_space(first_action, action_space_of(self.env))


class StickyActionsState(eqx.Module):
    """The state of a `StickyActions`."""

    env_state: PyTree
    last_action: Any
    is_first: Bool[Array, "*N"]  # whether the episode begins
