"""Building what a config describes: the environment, the untrained policy and the runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optax

from .._core.types import Environment, Policy
from ..envs._gymnax import make
from ..envs._wrappers import FrameStack, LastActionReward, ObserveOnly
from ..nn._dropout import Schedule
from ..policies._actor_critic import ActorCritic
from ..policies._normalized import NormalizedObservations
from ..policies._recurrent import RecurrentActorCritic
from ..policies._transformer import TransformerActorCritic
from ..ppo._train import count_updates
from ._config import Config, EnvConfig
from ._policy_config import PolicyConfig
from ._sweep import Member, read_sweep


def build_env(config: EnvConfig) -> Environment:
    """Build the environment; `ValueError` for parameters that it does not take."""
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
    """Put the key of the config into an error's message, before it or `instead_of` its subject."""
    try:
        yield
    except (ValueError, TypeError) as error:
        message = str(error)
        if instead_of and message.startswith(instead_of):
            raise ValueError(key + message.removeprefix(instead_of)) from None
        raise ValueError(f"{key}: {message}") from None


def build_policy(config: Config, env: Environment, *, key: Any) -> Policy:
    """Build the untrained policy."""
    policy = _of_kind(config.policy, env, dropout=_dropout(config), key=key)
    return NormalizedObservations(policy, env) if config.policy.normalize_observations else policy


def _of_kind(
    policy: PolicyConfig, env: Environment, *, dropout: float | Schedule, key: Any
) -> Policy:
    for_all: dict[str, Any] = {
        "activation": policy.activation,
        "num_channels": policy.num_channels,
        "dropout": dropout,
        "continuous": policy.continuous,
        "state_dependent_std": policy.state_dependent_std,
        "key": key,
    }
    if policy.kind == "mlp":
        return ActorCritic(
            env,
            hidden_sizes=policy.hidden_sizes,
            critic_dropout=dropout if policy.shared_masks else policy.critic_dropout,
            shared_masks=policy.shared_masks,
            **for_all,
        )
    if policy.kind == "transformer":
        return TransformerActorCritic(
            env,
            context_length=policy.context_length,
            num_layers=policy.num_layers,
            num_heads=policy.num_heads,
            embed_size=policy.embed_size,
            attention_dropout=policy.attention_dropout,
            gated=policy.gated,
            **for_all,
        )
    return RecurrentActorCritic(
        env,
        cell=policy.kind,
        hidden_size=policy.hidden_size,
        hidden_sizes=policy.hidden_sizes,
        critic_dropout=policy.critic_dropout,
        recurrent_dropout=policy.recurrent_dropout,
        **for_all,
    )


def _dropout(config: Config) -> float | Schedule:
    """The rate, or its schedule if it changes to `dropout_end`."""
    start, end = config.policy.dropout, config.policy.dropout_end
    if end is None:
        return start
    # The first update has the first rate and the last update the last one.
    num_steps = max(count_updates(config.total_steps, config.ppo) - 1, 1)
    return optax.linear_schedule(start, end, num_steps)


def members(config: Config) -> list[Member]:
    """The runs that a config describes: each setting of its sweep with each of its seeds.

    The seeds of one setting are next to each other. Without a sweep or seeds, there is one run.
    """
    settings = read_sweep(config.sweep, num_samples=config.num_samples, seed=config.seed)
    seeds = range(config.seed, config.seed + config.num_seeds)
    return [Member(seed, setting) for setting in settings for seed in seeds]
