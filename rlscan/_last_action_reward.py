"""`LastActionReward`: an environment that shows what was done last, and what it gave."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from ._pytree import in_dtypes_of, strong, where
from ._spaces import Box, Nested, is_box, is_discrete, parts_of, space_dtype
from ._types import Environment, PyTree, StepResult


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
