"""A step of an environment that resets itself."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


def finish(
    env: Any, key: Any, observation: Any, state: Any, reward: Any, ends: tuple[Any, Any]
) -> tuple:
    """The six values of a step, with the reset that the contract asks for.

    **Arguments:** what the step led to before any reset; `key` is that of the reset, and `ends`
    is `(terminated, truncated)`.
    """
    terminated, truncated = ends
    pick = partial(jax.tree.map, partial(jnp.where, terminated | truncated))
    new_observation, new_state = env.reset(key)
    return (
        pick(new_observation, observation),
        pick(new_state, state),
        reward,
        terminated,
        truncated,
        {"final_observation": observation},
    )
