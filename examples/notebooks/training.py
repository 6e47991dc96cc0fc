# %% [markdown]
# # Training, evaluation and uncertainty
#
# Train a policy with dropout in a run directory, look at the curve, train several seeds in one
# program, and ask how far the networks of MC-dropout disagree.

# %%
import tempfile
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import rlscan

# %% [markdown]
# ## Training
#
# `rlscan.fit` shows a progress bar, and keeps metrics and checkpoints in a directory. If this
# cell is interrupted and run again with the same directory, it goes on where it was.

# %%
env = rlscan.make("CartPole-v1")
make_policy = partial(rlscan.policies.ActorCritic, env, dropout=0.1, shared_masks=True)
policy = make_policy(key=rlscan.key(0))
config = rlscan.ppo.PPOConfig(
    num_envs=16, num_steps=64, learning_rate=1e-3, gamma=0.98, gae_lambda=0.8, entropy_coef=0.0
)
output = Path(tempfile.mkdtemp(), "cartpole")  # use a fixed one, such as "runs/cartpole"
state = rlscan.fit(
    policy, env, config, total_steps=100_000, output=output, key=rlscan.key(1), eval_interval=20
)

# %%
metrics = rlscan.runs.read_metrics(output)
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3), layout="constrained")
left.plot(metrics["step"] / 1000, metrics["return_mean_100"])
left.set(title="mean return of the last 100 episodes", xlabel="environment steps, thousands")
right.plot(metrics["step"] / 1000, metrics["entropy"])
right.set(title="entropy of the policy, in nats", xlabel="environment steps, thousands")
plt.show()

# %% [markdown]
# ## Several seeds in one program
#
# An array of keys trains as many policies side by side:

# %%
keys = jax.random.split(rlscan.key(2), 5)
curves = [
    np.asarray(metrics["episode_return"])
    for state, metrics in rlscan.train(make_policy, env, config, total_steps=100_000, key=keys)
]
curves = np.array(curves)  # updates, seeds; NaN in an update in which no episode ended

smooth = np.array([np.nanmean(curves[max(0, i - 9) : i + 1], axis=0) for i in range(len(curves))])
iqm = np.array([rlscan.runs.iqm(row) for row in smooth])
low, high = np.array([rlscan.runs.bootstrap_interval(row) for row in smooth]).T
steps = np.arange(1, len(curves) + 1) * 16 * 64 / 1000
figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.plot(steps, iqm)
ax.fill_between(steps, low, high, alpha=0.25)
ax.set(title="return: IQM of five seeds, 95 % interval", xlabel="environment steps, thousands")
plt.show()

# %% [markdown]
# ## Evaluation
#
# How the action is taken, and which network acts, are two switches:

# %%
trained = rlscan.load_policy(output, like=policy)
evaluate = eqx.filter_jit(rlscan.evaluate)
for action in ("sample", "mode"):
    for network in ("train", "inference"):
        result = evaluate(
            trained, env, num_episodes=64, key=rlscan.key(3), action=action, network=network
        )
        low, high = rlscan.runs.bootstrap_interval(np.asarray(result.episode_return))
        mean = float(result.episode_return.mean())
        print(f"{action:>6}, {network:>9}: {mean:.0f}, IQM in [{low:.0f}, {high:.0f}]")

# %% [markdown]
# ## Uncertainty
#
# MC-dropout keeps several masks, and asks how far their networks disagree (Gal & Ghahramani,
# 2016). `rlscan.evaluate` does this along episodes:

# %%
result = evaluate(
    trained, env, num_episodes=64, key=rlscan.key(4), network="mc-dropout", num_masks=16
)
spread = result.spread
assert spread is not None  # it is `None` unless the network is "mc-dropout"
print("disagreement of the logits, mean:", float(spread.distribution["logits"].mean()))
print("disagreement of the values, mean:", float(spread.value.mean()))

# %% [markdown]
# The same by hand: call the policy with one key for each mask, in states with the pole tilted. A
# policy is loaded in inference mode, so its dropout is switched on again. Each thin line is the
# network of one mask, and the thick one is their mean.

# %%
tilts = jnp.linspace(-0.6, 0.6, 121)
states = jnp.zeros((121, 4)).at[:, 2].set(tilts)
masks = jax.random.split(rlscan.key(5), 32)
noisy = eqx.nn.inference_mode(trained, value=False)


@jax.jit
def right_and_value(key):
    def one(observation):
        distribution, value, _ = noisy(observation, (), key=key)
        return jax.nn.softmax(distribution.logits)[1], value

    return jax.vmap(one)(states)


right_of, values = jax.vmap(right_and_value)(masks)
figure, axes = plt.subplots(1, 2, figsize=(11, 3), layout="constrained")
for ax, outputs, title in zip(
    axes, (right_of, values), ("probability of a push to the right", "value"), strict=True
):
    ax.plot(tilts, outputs.T, color="C0", alpha=0.15)
    ax.plot(tilts, outputs.mean(axis=0), color="C1", linewidth=2)
    ax.axvspan(-0.21, 0.21, color="black", alpha=0.06)  # an episode ends outside
    ax.set(title=title, xlabel="angle of the pole, in radians")
plt.show()

# %% [markdown]
# The shaded part is where the pole may be; outside of it an episode has ended, so no network has
# seen such a state. Yet they hardly disagree more there: look before you take the disagreement for
# a measure of how unfamiliar a state is.
#
# Next: [a new algorithm](algorithm.py), or the page [evaluation and
# MC-dropout](../../docs/guides/evaluation.md).
