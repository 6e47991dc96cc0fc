# %% [markdown]
# # A rollout and its replay
#
# A policy with dropout is another network at every step. This notebook lets one act, replays its
# steps with the same masks, and shows what happens to PPO's ratio if the masks are not the same.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import rlscan

# %% [markdown]
# ## A policy
#
# Masks hardly matter to a policy that has learned nothing, so this one is trained for a while, with
# dropout on. `rlscan.make` makes one environment, of which the rollout steps many copies.

# %%
env = rlscan.make("CartPole-v1")
policy = rlscan.policies.ActorCritic(env, dropout=0.25, key=rlscan.key(0))
config = rlscan.ppo.PPOConfig(num_envs=16, num_steps=64, learning_rate=1e-3)
for training_state, _ in rlscan.train(policy, env, config, total_steps=100_000, key=rlscan.key(4)):
    policy = training_state.policy

# %% [markdown]
# ## A rollout
#
# `rlscan.rollout` is traced in each call, so it is called under `eqx.filter_jit`.

# %%
state = rlscan.init_rollout(policy, env, num_envs=64, key=rlscan.key(1))
rollout = eqx.filter_jit(rlscan.rollout)
state, trajectory = rollout(policy, env, state, 256)
print(jax.tree.map(jnp.shape, (trajectory.observation, trajectory.action, trajectory.reward)))

# %% [markdown]
# Each array has a time axis and an axis of environments. Episodes end at different times, and a
# new one begins in the next step:

# %%
ended = trajectory.terminated | trajectory.truncated
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
left.imshow(trajectory.episode_length.T, aspect="auto", cmap="viridis")
left.set(title="length of the episode so far", xlabel="step", ylabel="environment")
right.hist(np.asarray(trajectory.episode_return[ended]), bins=30)
right.set(title=f"returns of {int(ended.sum())} episodes", xlabel="return")
plt.show()

# %% [markdown]
# ## Its replay
#
# `rlscan.replay` calls the policy again, with the key of each step. The masks are the same, so
# the log-probabilities are, up to rounding.

# %%
replay = eqx.filter_jit(rlscan.replay)
log_prob, entropy, value = replay(policy, trajectory)
replayed = log_prob - trajectory.log_prob
print("largest |log ratio|:", float(abs(replayed).max()))

# %% [markdown]
# What would an update do that draws new masks? Give the steps other keys, and PPO's ratio is no
# longer 1, although nothing has been learned yet:

# %%
keys = jax.random.split(rlscan.key(2), trajectory.policy_key.shape)
fresh = eqx.tree_at(lambda t: t.policy_key, trajectory, keys)
log_prob, _, _ = replay(policy, fresh)
with_fresh_masks = log_prob - trajectory.log_prob

figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
bins = np.linspace(0.39, 1.61, 62).tolist()
for log_ratio, label in ((replayed, "replayed masks"), (with_fresh_masks, "fresh masks")):
    ax.hist(np.exp(log_ratio).ravel(), bins, alpha=0.7, label=label)
for edge in (0.8, 1.2):
    ax.axvline(edge, color="black", linestyle=":")
ax.set(yscale="log", xlabel="ratio before any gradient step", ylabel="steps")
ax.legend()
plt.show()
outside = abs(np.exp(with_fresh_masks) - 1) > 0.2
print(f"clipped before anything was learned: {outside.mean():.1%}")

# %% [markdown]
# ## Any steps, in any order
#
# An update needs minibatches. Steps may be replayed in any order and shape:

# %%
fields = rlscan.Transition.__dataclass_fields__
steps = rlscan.Transition(**{name: getattr(trajectory, name) for name in fields})
steps = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), steps)
order = jax.random.permutation(rlscan.key(3), 64 * 256)
minibatch = jax.tree.map(lambda x: x[order[:512]], steps)
log_prob, _, _ = replay(policy, minibatch)
print(log_prob.shape, float(abs(log_prob - minibatch.log_prob).max()))

# %% [markdown]
# ## What it costs
#
# A trajectory keeps the key of each step, 8 bytes, and not the masks. So its size does not depend
# on the network:

# %%
for width in (16, 64, 256):
    wide = rlscan.policies.ActorCritic(
        env, hidden_sizes=(width, width), dropout=0.25, key=rlscan.key(0)
    )
    print(width, "units:", rlscan.transition_bytes(wide, env, num_steps=128), "bytes per step")

# %% [markdown]
# Next: [a policy and an environment of your own](own.py), or the page [replay and
# keys](../../docs/concepts/replay.md).
