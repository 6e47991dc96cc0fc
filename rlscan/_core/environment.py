"""The methods of an environment, called as the whole library calls them.

An environment may return Python numbers, weak types, and flags that are 0.0 or 1.0, as brax's are.
They are converted here, so that wrappers and the rollout need not.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from .roles import require_spaces
from .spaces import space_shapes
from .tree import as_strong_arrays, cast_like
from .types import Environment, HasSpaces, PyTree, StepResult


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


def observation_space_of(env: HasSpaces) -> Any:
    """The environment's observation space, whose bounds are constants under a trace too."""
    require_spaces(env)
    with jax.ensure_compile_time_eval():
        return env.observation_space()


def action_space_of(env: HasSpaces) -> Any:
    """The environment's action space, whose bounds are constants under a trace too."""
    require_spaces(env)
    with jax.ensure_compile_time_eval():
        return env.action_space()


def observation_shapes(env: Any) -> PyTree:
    """The shapes and dtypes of one observation: of a reset, or of the space if there is none."""
    if not hasattr(env, "reset"):
        return space_shapes(observation_space_of(env))
    # All of jax.random takes keys of this generator.
    reset = lambda: reset_env(env, jax.random.key(0, impl="threefry2x32"))[0]  # noqa: E731
    return jax.eval_shape(reset)
