"""The parts of an update, each by what it hands on to the next."""

import dataclasses
import math
from functools import partial
from typing import Any

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rlscan
from rlscan._core.mesh import WHOLE, sharded
from rlscan.ppo import _update as ppo
from rlscan.testing import Box, Discrete

CONFIG = rlscan.ppo.PPOConfig(
    num_envs=2, num_steps=4, num_epochs=2, num_minibatches=4, scale_rewards=True, gae_lambda=0.0
)
SCHEDULE = optax.linear_schedule(0.5, 0.1, 4)


class Count(eqx.Module):
    """An endless episode whose observation and reward are the number of its steps so far."""

    def reset(self, key: Any) -> tuple:
        return jnp.zeros(()), jnp.zeros(())

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        state, no = state + 1, jnp.asarray(False)
        return state, state, state, no, no, {"final_observation": state}

    def observation_space(self) -> Box:
        return Box(0, jnp.inf, ())

    def action_space(self) -> Discrete:
        return Discrete(2)


class Annealed(eqx.Module):
    """A policy with one number to learn, and a rate that follows a schedule; its value is 0."""

    number: Any
    dropout: rlscan.nn.AnnealedDropout

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        logits = self.dropout(jnp.ones(2), key=key) * self.number
        return distrax.Categorical(logits=logits), jnp.zeros(()), state

    def initial_state(self) -> tuple:
        return ()


def start(mesh: Any = None) -> Any:
    policy = Annealed(jnp.asarray(1.0), rlscan.nn.AnnealedDropout(SCHEDULE))
    return ppo.init_train(policy, Count(), CONFIG, key=rlscan.key(0), mesh=mesh)


def of_its_steps(policy: Any, minibatch: Any, config: Any) -> tuple:
    """A loss whose gradient is the mean observation of its minibatch."""
    log_ratio = jnp.zeros_like(minibatch.advantage)
    return policy.number * minibatch.trajectory.observation.mean(), (log_ratio, {})


def attempt(state: Any) -> tuple:
    """Make an update that reports the gradient of each of its minibatches, [epoch, minibatch]."""

    def gradient(loss: Any, grads: Any, norm: Any, params: Any) -> Any:
        return grads.number

    after, _, reports = ppo.attempt(state, Count(), CONFIG, 8, of_its_steps, gradient)
    return after, reports["finite"]


jit_attempt = eqx.filter_jit(attempt)


@pytest.mark.slow
def test_the_first_update_acts_at_the_first_rate_and_learns_from_scaled_rewards():
    state = start()
    policy: Any
    policy, _, batch, *_ = eqx.filter_jit(ppo.collect)(state, Count(), CONFIG)
    np.testing.assert_allclose(policy.dropout.p, SCHEDULE(0))
    reward, done = batch.trajectory.reward, batch.trajectory.terminated
    scaled = rlscan.ppo.scale_rewards(state.reward_scaling, reward, done, gamma=CONFIG.gamma)[1]
    # The value is 0 and λ too, so a target is the scaled reward.
    np.testing.assert_allclose(batch.target, scaled, rtol=1e-6)
    assert (np.abs(scaled - reward) > 0.1).any()


@pytest.mark.slow
def test_each_epoch_of_each_update_has_an_order_of_its_own():
    state = start()
    after, first = jit_attempt(state)
    again, second = jit_attempt(after)
    # The counts go on, so the second rollout's are larger by 4.
    orders = [tuple(epoch.tolist()) for epoch in (*first, *(second - 4))]
    assert len(set(orders)) == 4
    keys = np.stack([jax.random.key_data(s.key) for s in (state, after, again)])
    assert len(np.unique(keys, axis=0)) == 3


@pytest.mark.slow
def test_each_device_has_an_order_of_its_own():
    """A minibatch is one step on each of two devices, and its gradient their mean count."""
    mesh = rlscan.make_mesh(2)
    state = start(mesh)
    specs = ppo.state_specs(state)
    on_each = sharded(lambda state: attempt(state)[1], mesh, (specs,), WHOLE)
    gradient = np.asarray(eqx.filter_jit(on_each)(state))
    np.testing.assert_allclose(gradient.sum(axis=1), 0 + 1 + 2 + 3)  # every step once an epoch
    assert (gradient % 1 == 0.5).any()


@pytest.mark.slow
def test_a_minibatch_that_the_kl_stop_skips_is_not_examined():
    """Its loss is infinite and its step was not taken, so the run has not diverged."""

    def too_far(policy: Any, minibatch: Any, config: Any) -> tuple:
        log_ratio = jnp.full_like(minibatch.advantage, 3.0)
        return policy.number * jnp.inf, (log_ratio, {})

    once = eqx.filter_jit(partial(rlscan.ppo.update, env=Count(), num_updates=8, loss=too_far))
    for target_kl, update in ((0.1, 0), (math.inf, 1)):
        config = dataclasses.replace(CONFIG, target_kl=target_kl).as_arrays()
        state, metrics = once(start(), config=config)
        assert state.divergence.update == metrics["diverged"] == update
        assert metrics["num_gradient_steps"] == 0


@pytest.mark.slow
def test_a_loss_may_read_the_observation_after_each_step():
    """The count goes up by 1, whatever the order, also from the last step to the next rollout."""

    def step_up(policy: Any, minibatch: Any, config: Any) -> tuple:
        gap = minibatch.next_observation - minibatch.trajectory.observation
        log_ratio = jnp.zeros_like(minibatch.advantage)
        return 0 * policy.number, (log_ratio, {"least": gap.min(), "most": gap.max()})

    update = partial(rlscan.ppo.update, env=Count(), config=CONFIG, num_updates=8, loss=step_up)
    _, metrics = eqx.filter_jit(update)(start())
    assert metrics["least"] == metrics["most"] == 1
