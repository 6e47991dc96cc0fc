"""The methods of an environment, called as the whole library calls them.

An environment may return Python numbers, weak types, and flags that are 0.0 or 1.0, as brax's are.
They are converted here, so that wrappers and the rollout need not.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from .tree import as_strong_arrays, cast_like
from .types import Environment, PyTree, StepResult


def reset_env(env: Environment, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
    """Call `env.reset`; numbers in the observation and the state become arrays."""
    observation, state = env.reset(key)
    return as_strong_arrays(observation), as_strong_arrays(state)


def step_env(env: Environment, key: PRNGKeyArray, state: PyTree, action: PyTree) -> StepResult:
    """Call `env.step`; the reward becomes a float32, both flags booleans, and numbers arrays.

    The last observation gets the dtypes of the observation.
    """
    observation, state, reward, terminated, truncated, info = env.step(key, state, action)
    observation = as_strong_arrays(observation)
    final = cast_like(observation, as_strong_arrays(info["final_observation"]))
    return (
        observation,
        as_strong_arrays(state),
        jnp.asarray(reward, jnp.float32),
        jnp.asarray(terminated, bool),
        jnp.asarray(truncated, bool),
        {**info, "final_observation": final},
    )


# A space may be made of jnp arrays in each call. Under a trace they would be traced as well, but
# networks are built from their values.


def observation_space_of(env: Environment) -> Any:
    """The environment's observation space, whose bounds are constants under a trace too."""
    with jax.ensure_compile_time_eval():
        return env.observation_space()


def action_space_of(env: Environment) -> Any:
    """The environment's action space, whose bounds are constants under a trace too."""
    with jax.ensure_compile_time_eval():
        return env.action_space()
