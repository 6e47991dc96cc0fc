"""A fake update that costs nothing, for tests of the code around it."""

import equinox as eqx
import jax.numpy as jnp

import rlscan


def fake_update(state, env, config, *, num_updates, **settings):
    """End u mod 3 episodes in update u, each with return 10 u, and add 1 to the actor's bias."""
    u = state.num_gradient_steps + 1
    count = u % 3
    episode = {"episode_return": 10.0 * u, "episode_length": 1.0 * u}
    metrics = {name: jnp.asarray(0.0) for name in rlscan.ppo.METRICS}
    metrics |= {name: jnp.where(count > 0, x, jnp.nan) for name, x in episode.items()}
    metrics |= {"num_episodes": count, "learning_rate": 1.0 * u}
    bias = state.policy.actor.layers[-1].bias + 1.0
    moved = eqx.tree_at(lambda s: s.policy.actor.layers[-1].bias, state, bias)
    return eqx.tree_at(lambda s: (s.num_gradient_steps, s.num_updates), moved, (u, u)), metrics
