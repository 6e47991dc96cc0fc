"""REINFORCE (Williams, 1992) with dropout, on CartPole, from rlscan's public names only.

python scripts/custom_agent.py [RUN_DIR]; started again, it goes on from its last checkpoint.
"""

import sys

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import rlscan


class Policy(eqx.Module):
    hidden: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __call__(self, observation, state, *, key):
        hidden = self.dropout(jax.nn.tanh(self.hidden(observation)), key=key)
        return distrax.Categorical(self.head(hidden)), None, state

    def initial_state(self):
        return ()


def loss(policy, trajectory):
    ended = trajectory.terminated | trajectory.truncated
    no_value = jnp.zeros(len(ended))  # then an advantage is the reward to go

    def reward_to_go(reward, ended):
        return rlscan.gae(reward, no_value, no_value, ended, ended, gamma=0.98, gae_lambda=1.0)[0]

    weight = jax.vmap(reward_to_go, in_axes=1, out_axes=1)(trajectory.reward, ended)
    log_prob, entropy, _ = rlscan.replay(policy, trajectory)
    return -(log_prob * rlscan.ppo.normalize(weight)).mean() - 0.01 * entropy.mean()


@eqx.filter_jit
def update(policy, opt_state, rollout_state):
    rollout_state, trajectory = rlscan.rollout(policy, env, rollout_state, num_steps=250)
    grads = eqx.filter_grad(loss)(policy, trajectory)
    updates, opt_state = optimiser.update(grads, opt_state)
    ended = trajectory.terminated | trajectory.truncated
    metrics = {"episode_return": trajectory.episode_return.mean(where=ended)}
    return (eqx.apply_updates(policy, updates), opt_state, rollout_state), metrics


def updates(state):
    while True:
        state, metrics = update(*state)
        yield state, metrics


env = rlscan.make("CartPole-v1")
keys = jax.random.split(rlscan.key(0), 3)
hidden, head = eqx.nn.Linear(4, 64, key=keys[0]), eqx.nn.Linear(64, 2, key=keys[1])
policy = Policy(hidden, eqx.nn.Dropout(0.1), head)
optimiser = optax.adam(1e-2)
opt_state = optimiser.init(eqx.filter(policy, eqx.is_inexact_array))
start = policy, opt_state, rlscan.init_rollout(policy, env, num_envs=32, key=keys[2])

directory = sys.argv[1] if len(sys.argv) > 1 else "runs/reinforce"
with rlscan.runs.Run(directory, start, num_updates=151, steps_per_update=32 * 250) as run:
    for _ in run.record(updates(run.state)):  # hands over each (state, metrics)
        pass  # evaluate, print or break, as you like
