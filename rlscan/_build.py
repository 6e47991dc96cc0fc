"""What a config describes, built: the environment and the untrained policy."""

from typing import Any

import optax

from ._actor_critic import ActorCritic
from ._config import Config, EnvConfig
from ._envs import make
from ._train import count_updates
from ._types import Environment


def build_env(config: EnvConfig) -> Environment:
    """The environment that a config describes; `ValueError` for parameters it does not take."""
    try:
        return make(config.name, **config.params)
    except (ValueError, TypeError) as error:
        raise ValueError(f"env.params: {error}") from None


def build_policy(config: Config, env: Environment, *, key: Any) -> ActorCritic:
    """The untrained policy that a config describes."""
    dropout = start = config.policy.dropout
    if (end := config.policy.dropout_end) is not None:
        num_updates = count_updates(config.total_steps, config.ppo)
        dropout = optax.linear_schedule(start, end, num_updates)
    return ActorCritic(
        env,
        hidden_sizes=config.policy.hidden_sizes,
        activation=config.policy.activation,
        num_channels=config.policy.num_channels,
        dropout=dropout,
        critic_dropout=config.policy.critic_dropout,
        shared_masks=config.policy.shared_masks,
        continuous=config.policy.continuous,
        state_dependent_std=config.policy.state_dependent_std,
        key=key,
    )
