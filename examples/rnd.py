"""A hook: Random Network Distillation, a bonus for what is new (Burda et al., arXiv:1810.12894).

    rlscan train --config examples/rnd.yaml

The bonus is the error of a network that learns to predict another one, which stays as it was made.
`on_batch` is called after each rollout: it adds the bonus to the rewards, and takes a few steps of
the predictor's own optimiser. The predictor is a part of the training state, so of checkpoints too.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

import rlscan


class State(eqx.Module):
    predictor: Any
    target: Any
    opt_state: Any
    scale: jax.Array  # running mean of the error, which the bonus is divided by


class RND(eqx.Module):
    """Add `weight` times the prediction error to the rewards of a rollout."""

    weight: float = 0.5
    learning_rate: float = 1e-3
    width: int = 64
    num_features: int = 16
    num_steps: int = 4
    """Steps of the predictor on each rollout."""

    @property
    def optimizer(self):
        return optax.adam(self.learning_rate)

    def init(self, policy, env, *, key):
        keys = jax.random.split(key)
        first, _ = jax.eval_shape(env.reset, jax.random.key(0))
        size = sum(x.size for x in jax.tree.leaves(first))
        target, predictor = (
            eqx.nn.MLP(size, self.num_features, self.width, 2, key=key) for key in keys
        )
        opt_state = self.optimizer.init(eqx.filter(predictor, eqx.is_array))
        return State(predictor, target, opt_state, jnp.ones(()))

    def __call__(self, policy, trajectory, extra, *, key):
        flatten = jax.vmap(jax.vmap(lambda x: ravel_pytree(x)[0].astype(jnp.float32)))
        observation = flatten(trajectory.observation)  # [T, N, size]
        mean, std = observation.mean(axis=(0, 1)), observation.std(axis=(0, 1))
        observation = jnp.clip((observation - mean) / (std + 1e-8), -5, 5)
        error = self.error(extra.predictor, extra.target, observation)
        scale = 0.99 * extra.scale + 0.01 * error.mean()
        reward = trajectory.reward + self.weight * error / scale

        def step(carry, _):
            predictor, opt_state = carry
            loss = lambda predictor: self.error(predictor, extra.target, observation).mean()  # noqa: E731
            updates, opt_state = self.optimizer.update(eqx.filter_grad(loss)(predictor), opt_state)
            return (eqx.apply_updates(predictor, updates), opt_state), None

        start = extra.predictor, extra.opt_state
        (predictor, opt_state), _ = rlscan.filter_scan(step, start, length=self.num_steps)
        trajectory = eqx.tree_at(lambda t: t.reward, trajectory, reward)
        return trajectory, State(predictor, extra.target, opt_state, scale)

    def error(self, predictor, target, observation):
        """The squared error for each step, `[T, N]`."""
        each = lambda net: jax.vmap(jax.vmap(net))(observation)  # noqa: E731
        return jnp.square(each(predictor) - jax.lax.stop_gradient(each(target))).mean(axis=-1)
