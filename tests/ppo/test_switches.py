"""Training under the switches of JAX that people hunt errors with, for each kind of policy."""

import dataclasses
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import probes
import pytest
import statistics_network
from jax.nn import relu

import rlscan
from rlscan import nn
from rlscan.policies import (
    ActorCritic,
    NormalizedObservations,
    RecurrentActorCritic,
    TransformerActorCritic,
)
from rlscan.testing import Box, Discrete

CONFIG = rlscan.ppo.PPOConfig(
    num_envs=2, num_steps=4, num_epochs=1, num_minibatches=2, scale_rewards=True, target_kl=9.0
)


class Bytes(NamedTuple):
    low: int
    high: int
    shape: tuple[int, ...]
    dtype: Any = np.uint8


class Integers(eqx.Module):
    nvec: Any
    shape: tuple[int, ...] = (2,)


class Everything(eqx.Module):
    """Observations and actions of every kind, in dicts; a mask forbids one of three moves."""

    def reset(self, key: Any) -> tuple:
        state = jax.random.normal(key, (2,))
        return self._observe(state, jnp.zeros((), jnp.int32)), (state, jnp.zeros((), jnp.int32))

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        position, time = state
        position = 0.9 * position + 0.1 * action["push"]
        position = position + 0.1 * action["grid"].astype(jnp.float32)
        time = time + 1
        seen = self._observe(position, time)
        done = time >= 3
        observation, after = jax.tree.map(
            partial(jnp.where, done), self.reset(key), (seen, (position, time))
        )
        info = {"final_observation": seen}
        return observation, after, position.sum(), done, jnp.zeros((), bool), info

    def _observe(self, position: Any, time: Any) -> dict:
        pixels = jnp.full((4, 4, 1), 100, jnp.uint8)
        mask = jnp.arange(3) != time % 3
        observation = {"pixels": pixels, "position": position, "time": time % 3}
        return {**observation, "action_mask": {"move": mask}}

    def observation_space(self) -> dict:
        seen = {"pixels": Bytes(0, 255, (4, 4, 1)), "time": Discrete(3)}
        seen["position"] = Box(-jnp.inf, jnp.inf, (2,))
        return {**seen, "action_mask": {"move": Box(0, 1, (3,))}}

    def action_space(self) -> dict:
        return {"grid": Integers((2, 3)), "move": Discrete(3), "push": Box(-1.0, 1.0, (2,))}


class NoisyBody(eqx.Module):
    """Every stochastic layer of `rlscan.nn` that the policies of `rlscan.policies` do not use."""

    linear: nn.NoisyLinear

    def __call__(self, x: Any, *, key: Any) -> Any:
        keys = jax.random.split(key, 4)
        x = relu(self.linear(x, key=keys[0]))
        x = nn.GaussianDropout(0.1)(x, key=keys[1])
        x = x + nn.DropPath(0.1)(jnp.tanh(x), key=keys[2])
        return nn.ChannelDropout(0.1)(x.reshape(4, 2), key=keys[3]).ravel()


def _noisy() -> probes.Feedforward:
    actor, critic = (eqx.nn.Linear(8, n, key=jax.random.key(n)) for n in (3, 1))
    body = NoisyBody(nn.NoisyLinear(4, 8, key=jax.random.key(0)))
    return probes.Feedforward(body, actor, critic)


ENV, WALK = Everything(), probes.Wander()
WRAPPED = rlscan.envs.LastActionReward(rlscan.envs.FrameStack(ENV, 2))
SCHEDULE = optax.linear_schedule(0.5, 0.1, 2)
SMALL: dict[str, Any] = {"hidden_sizes": (4,), "num_channels": (2,)}
RECURRENT: dict[str, Any] = {**SMALL, "hidden_size": 4, "dropout": 0.1}
TOKENS: dict[str, Any] = {"context_length": 3, "num_layers": 1, "num_heads": 2, "embed_size": 4}

# Each kind of policy, by how it is made for an environment, with options spread over the kinds.
KINDS = {
    "mlp": lambda env, key: ActorCritic(
        env, dropout=SCHEDULE, critic_dropout=0.1, **SMALL, key=key
    ),
    "normalized": lambda env, key: NormalizedObservations(
        ActorCritic(env, continuous="tanh", **SMALL, key=key), env
    ),
    "gru": lambda env, key: RecurrentActorCritic(env, recurrent_dropout=0.1, **RECURRENT, key=key),
    "lstm": lambda env, key: NormalizedObservations(
        RecurrentActorCritic(env, cell="lstm", continuous="beta", **RECURRENT, key=key), env
    ),
    "transformer": lambda env, key: TransformerActorCritic(
        env,
        gated=True,
        dropout=SCHEDULE,
        attention_dropout=0.1,
        state_dependent_std=True,
        **TOKENS,
        key=key,
    ),
    "statistics": lambda env, key: statistics_network.make_policy(),
    "noisy": lambda env, key: _noisy(),
}
ENVS = {kind: ENV for kind in KINDS} | {"gru": WRAPPED, "statistics": WALK, "noisy": WALK}

NO_PROMOTION = (jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"))

HUNTING = (
    jax.debug_nans(True),
    jax.debug_infs(True),
    jax.enable_checks(True),
    jax.default_prng_impl("rbg"),
    jax.threefry_partitionable(False),
    jax.legacy_prng_key("error"),
    jax.default_matmul_precision("bfloat16"),
)


def train(
    kind: str,
    env: Any = None,
    config: Any = CONFIG,
    num_updates: int = 2,
    generator: str = "threefry2x32",
) -> Any:
    env = ENVS[kind] if env is None else env
    policy = KINDS[kind](env, rlscan.key(0))
    total = num_updates * config.num_envs * config.num_steps
    run = eqx.filter_jit(partial(rlscan.ppo.train_scan, config=config, total_steps=total))
    return run(policy, env, key=rlscan.key(1, generator=generator))


def switched(*switches: Any) -> ExitStack:
    stack = ExitStack()
    for switch in switches:
        stack.enter_context(switch)
    return stack


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_policy_relies_on_the_promotion_of_dtypes_or_ranks(kind):
    with switched(*NO_PROMOTION):
        _, metrics = eqx.filter_eval_shape(train, kind)
    assert metrics["loss"].shape == (2,)


@pytest.mark.slow
def test_nor_does_an_evaluation():
    policy, env = KINDS["mlp"](ENV, rlscan.key(0)), ENV
    play = partial(
        rlscan.evaluate, env=env, num_episodes=4, num_masks=2, max_steps=3, key=rlscan.key(0)
    )
    with switched(*NO_PROMOTION):
        played = eqx.filter_eval_shape(lambda: play(policy, network="mc-dropout"))
    assert played.episode_return.shape == (2, 2)


def assert_trained(state: Any, metrics: Any, num_updates: int = 2) -> None:
    assert state.num_updates == num_updates and (metrics["diverged"] == 0).all()
    assert all(np.isfinite(x).all() for x in metrics.values())


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_policy_trains_under_the_switches_that_hunt_errors(kind):
    with switched(*HUNTING):
        assert_trained(*train(kind))


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_policy_uses_a_key_twice(kind):
    with jax.debug_key_reuse(True):  # JAX's checker fails together with `jax_enable_checks`
        state, _ = train(kind)
    assert state.num_updates == 2


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_policy_trains_operation_by_operation(kind):
    config = dataclasses.replace(CONFIG, num_envs=1, num_steps=1, num_minibatches=1)
    with switched(jax.disable_jit(), jax.debug_nans(True)):
        assert_trained(*train(kind, WALK, config, 1, generator="mix32"), num_updates=1)
