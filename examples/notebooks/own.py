# %% [markdown]
# # A policy and an environment of your own
#
# An environment is any object with `reset`, `step` and two spaces; a policy is any Equinox module
# that maps an observation to a distribution. Both are checked before anything is compiled.

# %%
import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from gymnax.environments.spaces import Box

import rlscan
import rlscan.testing

# %% [markdown]
# ## The environment
#
# A boat crosses a river to a jetty. The current is strongest in the middle; the boat chooses its
# heading. An episode terminates at the other bank, and is truncated after 60 steps.

# %%
JETTY = 0.5


class State(eqx.Module):
    position: jax.Array  # [2]: along the river, and across it from 0 to 1
    time: jax.Array


class River(eqx.Module):
    current: float = 0.06
    speed: float = 0.05
    time_limit: int = 60  # a promise that saves memory

    def reset(self, key):
        along = jax.random.uniform(key, minval=-0.5, maxval=1.0)
        state = State(jnp.stack([along, jnp.zeros(())]), jnp.zeros((), jnp.int32))
        return state.position, state

    def step(self, key, state, action):
        heading = jnp.pi / 2 * action[0]  # 0 is straight across
        drift = self.current * 4 * state.position[1] * (1 - state.position[1])
        move = jnp.stack([drift + self.speed * jnp.sin(heading), self.speed * jnp.cos(heading)])
        position = state.position + move
        after = State(position, state.time + 1)
        terminated = position[1] >= 1
        truncated = after.time >= self.time_limit
        reward = jnp.where(terminated, 1 - 2 * abs(position[0] - JETTY), -0.01)
        observation, next_state = rlscan.envs.reset_where(
            terminated | truncated, lambda: self.reset(key), (position, after)
        )
        info = {"final_observation": position}
        return observation, next_state, reward, terminated, truncated, info

    def observation_space(self):
        return Box(-10, 10, (2,))

    def action_space(self):
        return Box(-1, 1, (1,))


env = River()
short = River(time_limit=30)  # so that episodes end in both ways: only those are checked
print(rlscan.testing.check_environment(short, num_steps=256))

# %% [markdown]
# ## The policy
#
# Its noise multiplies the hidden units. Nothing tells rlscan about it: all that counts is that it
# is drawn from `key`.

# %%


class Captain(eqx.Module):
    hidden: eqx.nn.MLP
    head: eqx.nn.Linear
    log_std: jax.Array
    noise: float

    def __init__(self, noise=0.1, *, key):
        keys = jax.random.split(key)
        self.hidden = eqx.nn.MLP(2, 32, 32, 1, jax.nn.tanh, jax.nn.tanh, key=keys[0])
        self.head = eqx.nn.Linear(32, 2, key=keys[1])
        self.log_std = jnp.full((1,), -0.5)
        self.noise = noise

    def __call__(self, observation, state, *, key):
        hidden = self.hidden(observation)
        hidden = hidden * (1 + self.noise * jax.random.normal(key, hidden.shape))
        mean, value = self.head(hidden)
        mean = jnp.tanh(mean)[None]
        return distrax.MultivariateNormalDiag(mean, jnp.exp(self.log_std)), value, state

    def initial_state(self):
        return ()


policy = Captain(key=rlscan.key(0))
rlscan.check_policy(policy, env)

# %% [markdown]
# ## Training
#
# `rlscan.train` hands over every update. `audit_log_ratio` is the largest log ratio before its
# first gradient step: 0 up to rounding, because the noise is replayed.

# %%
config = rlscan.ppo.PPOConfig(num_envs=32, num_steps=64, learning_rate=3e-3, entropy_coef=0.0)
returns, audit, trained = [], [], policy
updates = rlscan.train(policy, env, config, total_steps=200_000, key=rlscan.key(1))
for state, metrics in updates:
    trained = state.policy
    returns.append(float(metrics["episode_return"]))
    audit.append(float(metrics["audit_log_ratio"]))
print("largest error of the ratio:", max(audit))

# %% [markdown]
# ## What it learned
#
# Without noise, and by the mode of the distribution, from eight places on the near bank:

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
left.plot(np.arange(1, len(returns) + 1) * 32 * 64 / 1000, returns)
left.set(title="return during training", xlabel="environment steps, thousands")

sailing = eqx.nn.inference_mode(trained)


@eqx.filter_jit
def crossing(along):
    def step(state, _):
        distribution, _, _ = sailing(state.position, (), key=rlscan.key(0))
        _, state, *_, info = env.step(rlscan.key(0), state, distribution.mode())
        return state, info["final_observation"]

    start = State(jnp.array([along, 0.0]), jnp.zeros((), jnp.int32))
    return jax.lax.scan(step, start, None, length=env.time_limit)[1]


for along in np.linspace(-0.5, 1.0, 8):
    path = np.asarray(crossing(along))
    arrived = np.argmax(path[:, 1] >= 1) + 1 if (path[:, 1] >= 1).any() else len(path)
    right.plot(*path[:arrived].T, marker=".", markersize=3)
right.plot([JETTY], [1.0], "k*", markersize=14)
right.set(title="crossings, and the jetty", xlabel="along the river", ylabel="across it")
plt.show()

# %% [markdown]
# `Captain.noise` is not switched off by `eqx.nn.inference_mode`, because it has no flag
# `inference`: a key of its own was drawn above. A layer with such a flag, as `eqx.nn.Dropout`
# has, is. Next: [training, evaluation and uncertainty](training.py).
