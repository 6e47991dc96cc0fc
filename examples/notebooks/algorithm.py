# %% [markdown]
# # A new algorithm
#
# Another algorithm needs only the rollout. This notebook writes an actor-critic that learns from
# each rollout by several gradient steps, with a penalty for moving away from the policy that
# acted, and trains it in a run directory.

# %%
import tempfile
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import rlscan

# %% [markdown]
# ## The loss
#
# `rlscan.replay` gives log-probabilities, entropies and values with gradients, and with the masks
# that acted. The penalty is an estimate of KL(old, new). With other masks it would not begin at
# 0.

# %%


def loss(policy, trajectory, advantage, target, penalty):
    log_prob, entropy, value = rlscan.replay(policy, trajectory)
    log_ratio = log_prob - trajectory.log_prob
    divergence = (jnp.expm1(log_ratio) - log_ratio).mean()
    gain = (jnp.exp(log_ratio) * rlscan.ppo.normalize(advantage)).mean()
    value_loss = 0.5 * jnp.square(value - target).mean()
    return -gain + penalty * divergence + 0.5 * value_loss, divergence


# %% [markdown]
# ## The algorithm
#
# An object with `init` and `update`. Its state is any pytree that holds all that changes.

# %%


class State(eqx.Module):
    policy: Any
    opt_state: Any
    rollout_state: rlscan.RolloutState
    env: Any


class Penalised(eqx.Module):
    """Actor-critic with GAE, and a KL penalty in the place of PPO's clipping."""

    num_envs: int = 16
    num_steps: int = 64
    num_epochs: int = 8
    learning_rate: float = 1e-3
    penalty: float = 3.0

    @property
    def optimizer(self):
        return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(self.learning_rate))

    def init(self, policy, env, key):
        opt_state = self.optimizer.init(eqx.filter(policy, eqx.is_inexact_array))
        rollout_state = rlscan.init_rollout(policy, env, num_envs=self.num_envs, key=key)
        return State(policy, opt_state, rollout_state, env)

    def update(self, state):
        rollout_state, trajectory = rlscan.rollout(
            state.policy, state.env, state.rollout_state, num_steps=self.num_steps
        )
        advantage, target = self.advantages(state.policy, rollout_state, trajectory)

        def epoch(carry, _):
            policy, opt_state = carry
            grad = eqx.filter_grad(loss, has_aux=True)
            grads, divergence = grad(policy, trajectory, advantage, target, self.penalty)
            updates, opt_state = self.optimizer.update(grads, opt_state)
            return (eqx.apply_updates(policy, updates), opt_state), divergence

        (policy, opt_state), divergences = rlscan.filter_scan(
            epoch, (state.policy, state.opt_state), None, length=self.num_epochs
        )
        ended = trajectory.terminated | trajectory.truncated
        metrics = {
            "episode_return": trajectory.episode_return.mean(where=ended),
            "num_episodes": ended.sum(),
            "first_kl": divergences[0],  # before any gradient step: 0
            "last_kl": divergences[-1],
        }
        return State(policy, opt_state, rollout_state, state.env), metrics

    def advantages(self, policy, rollout_state, trajectory):
        _, _, value = rlscan.replay(policy, trajectory)
        following = rlscan.next_value(policy, rollout_state, trajectory, value)

        def of_one(reward, value, following, terminated, truncated):
            return rlscan.gae(
                reward, value, following, terminated, truncated, gamma=0.98, gae_lambda=0.9
            )

        ends = trajectory.terminated, trajectory.truncated
        return jax.vmap(of_one, in_axes=1, out_axes=1)(trajectory.reward, value, following, *ends)


# %% [markdown]
# ## Training
#
# `rlscan.fit` takes it in the place of PPO's settings: progress bar, metrics, checkpoints and
# resume come with it.

# %%
env = rlscan.make("CartPole-v1")
policy = rlscan.policies.ActorCritic(env, dropout=0.1, key=rlscan.key(0))
folder = Path(tempfile.mkdtemp())
ppo = rlscan.ppo.PPOConfig(
    num_envs=16, num_steps=64, learning_rate=1e-3, gamma=0.98, gae_lambda=0.9, entropy_coef=0.0
)
for name, algorithm in (("penalised", Penalised()), ("PPO", ppo)):
    rlscan.fit(policy, env, algorithm, total_steps=200_000, output=folder / name, key=rlscan.key(1))

# %% [markdown]
# ## The curves
#
# One seed of each, so they show that it learns, and no more than that. `rlscan.runs.report`
# compares many seeds.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3), layout="constrained")
for name in ("penalised", "PPO"):
    metrics = rlscan.runs.read_metrics(folder / name)
    left.plot(metrics["step"] / 1000, metrics["episode_return"], label=name, alpha=0.8)
left.set(title="return", xlabel="environment steps, thousands")
left.legend()
metrics = rlscan.runs.read_metrics(folder / "penalised")
right.plot(metrics["step"] / 1000, np.maximum(metrics["last_kl"], 1e-10), label="in the last epoch")
right.plot(metrics["step"] / 1000, np.maximum(metrics["first_kl"], 1e-10), label="in the first")
right.set(
    title="KL from the policy that acted", xlabel="environment steps, thousands", yscale="log"
)
right.legend()
plt.show()
print("largest KL before a gradient step:", np.max(metrics["first_kl"]))

# %% [markdown]
# The page [a new algorithm](../../docs/guides/algorithm.md) tells which function is for what.
