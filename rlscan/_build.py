"""What a config describes, built: the environment, the untrained policy, the runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optax

from ._actor_critic import ActorCritic
from ._config import Config, EnvConfig
from ._envs import make
from ._frame_stack import FrameStack
from ._last_action_reward import LastActionReward
from ._normalize import NormalizedObservations
from ._observe_only import ObserveOnly
from ._sweep import Member, members_of
from ._train import count_updates
from ._types import Environment, Policy


def build_env(config: EnvConfig) -> Environment:
    """The environment that a config describes; `ValueError` for parameters it does not take."""
    with _named("env.params"):
        env = make(config.name, **config.params)
    if config.observe is not None:
        with _named("env.observe", instead_of="indices"):
            env = ObserveOnly(env, config.observe)
    if config.frame_stack > 1:
        with _named("env.frame_stack", instead_of="FrameStack"):
            env = FrameStack(env, config.frame_stack)
    return LastActionReward(env) if config.last_action_reward else env


@contextmanager
def _named(key: str, *, instead_of: str = "") -> Iterator[None]:
    """Says in an error which key of the config it comes from."""
    try:
        yield
    except (ValueError, TypeError) as error:
        message = str(error)
        if instead_of and message.startswith(instead_of):
            raise ValueError(key + message.removeprefix(instead_of)) from None
        raise ValueError(f"{key}: {message}") from None


def build_policy(config: Config, env: Environment, *, key: Any) -> Policy:
    """The untrained policy that a config describes."""
    dropout = start = config.policy.dropout
    if (end := config.policy.dropout_end) is not None:
        num_updates = count_updates(config.total_steps, config.ppo)
        dropout = optax.linear_schedule(start, end, num_updates)
    policy = ActorCritic(
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
    return NormalizedObservations(policy, env) if config.policy.normalize_observations else policy


def members(config: Config) -> list[Member]:
    """The runs that a config describes: mostly one."""
    return members_of(config.seed, config.num_seeds, config.sweep, config.num_samples)
