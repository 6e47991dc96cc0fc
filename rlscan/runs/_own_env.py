"""`in_own_env`: runs whose environments have different parameters, in one program."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from .._rollout.rollout import init_rollout
from .._rollout.state import RolloutState
from ..envs._wrappers import Wrapper
from ._axes import PARAMS
from ._build import members
from ._config import Config


def in_own_env(config: Config, keys: Key[Array, "*R"], state: Any) -> Any:
    """Give each run the parameters of the environment that a sweep has for it.

    Its first episodes start again there, with the keys that they had: each run is the one that it
    would be alone.

    **Arguments:**

    - `config`: the config, whose sweep may have keys `env.params`.
    - `keys`: those that training started with.
    - `state`: the first training state. It is returned as it is if no parameter is swept.
    """
    runs = members(config)
    names = [key for key in runs[0].swept if key.startswith(PARAMS)]
    if not names:
        return state
    values = [
        jnp.asarray([run.swept[name] for run in runs], jnp.float32).reshape(keys.shape)
        for name in names
    ]
    state = eqx.tree_at(lambda s: [_param(s.env, name) for name in names], state, values)

    def restart(policy: Any, env: Any, key: Any) -> RolloutState:
        # As `first_state` and `init_train` split the key of a run.
        _, key = jax.random.split(jax.random.clone(key))
        rollout_key, _ = jax.random.split(key)
        num_envs, shared_noise = config.ppo.num_envs, config.ppo.shared_noise
        return init_rollout(
            policy, env, num_envs=num_envs, key=rollout_key, shared_noise=shared_noise
        )

    if keys.ndim:
        restart = eqx.filter_vmap(restart, in_axes=eqx.if_array(0))
    rollout_state = eqx.filter_jit(restart)(state.policy, state.env, keys)
    return eqx.tree_at(lambda s: s.rollout_state, state, rollout_state)


def _param(env: Any, key: str) -> Any:
    """The parameter of the environment inside of its wrappers."""
    while isinstance(env, Wrapper):
        env = env.env
    return getattr(env.params, key.removeprefix(PARAMS))
