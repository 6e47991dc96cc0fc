"""An algorithm: A2C (Mnih et al., 2016, arXiv:1602.01783), one gradient step on each rollout.

    rlscan train --config examples/a2c.yaml

The gradient is that of the rollout itself, because `rlscan.replay` draws the same masks of dropout
again. Any class with `init` and `update` is an algorithm; `rlscan train` adds the run directory,
resume, the progress bar, evaluations and seeds.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import rlscan


class State(eqx.Module):
    policy: Any
    opt_state: Any
    rollout_state: rlscan.RolloutState
    env: Any


class A2C(eqx.Module):
    """Advantage actor-critic with GAE."""

    num_envs: int = 16
    num_steps: int = 16
    learning_rate: float = 2e-3
    gamma: float = 0.98
    gae_lambda: float = 0.95
    value_coef: float = 0.5
    entropy_coef: float = 0.005

    @property
    def optimizer(self):
        return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(self.learning_rate))

    def init(self, policy, env, key):
        opt_state = self.optimizer.init(rlscan.nn.partition_trainable(policy)[0])
        rollout_state = rlscan.init_rollout(policy, env, num_envs=self.num_envs, key=key)
        return State(policy, opt_state, rollout_state, env)

    def update(self, state):
        rollout_state, trajectory = rlscan.rollout(
            state.policy, state.env, state.rollout_state, num_steps=self.num_steps
        )
        params, rest = rlscan.nn.partition_trainable(state.policy)
        grads, metrics = jax.grad(self.loss, has_aux=True)(params, rest, rollout_state, trajectory)
        steps, opt_state = self.optimizer.update(grads, state.opt_state, params)
        policy = eqx.combine(optax.apply_updates(params, steps), rest)
        ended = trajectory.terminated | trajectory.truncated
        metrics["episode_return"] = trajectory.episode_return.mean(where=ended)
        metrics["num_episodes"] = ended.sum()
        return State(policy, opt_state, rollout_state, state.env), metrics

    def loss(self, params, rest, rollout_state, trajectory):
        policy = eqx.combine(params, rest)
        log_prob, entropy, value = rlscan.replay(policy, trajectory)
        frozen = eqx.combine(jax.lax.stop_gradient(params), rest)
        value_now = jax.lax.stop_gradient(value)
        following = rlscan.next_value(frozen, rollout_state, trajectory, value_now)

        def of_one(reward, value, following, terminated, truncated):
            discounts = {"gamma": self.gamma, "gae_lambda": self.gae_lambda}
            return rlscan.gae(reward, value, following, terminated, truncated, **discounts)

        ends = trajectory.terminated, trajectory.truncated
        advantage, target = jax.vmap(of_one, in_axes=1, out_axes=1)(
            trajectory.reward, value_now, following, *ends
        )
        policy_loss = -(log_prob * rlscan.ppo.normalize(advantage)).mean()
        value_loss = 0.5 * jnp.square(value - target).mean()
        entropy = entropy.mean()
        loss = policy_loss + self.value_coef * value_loss - self.entropy_coef * entropy
        return loss, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
