"""A callback: the pole of CartPole grows heavier gravity as the policy learns.

    python examples/curriculum.py [RUN_DIR]

A number of the environment that is an array from the start is an argument of the compiled program,
so the callback changes it in the training state, and nothing is compiled again.
"""

import sys

import equinox as eqx
import jax.numpy as jnp

import rlscan


class Gravity:
    """Raise gravity by a fifth whenever episodes return enough."""

    metrics = ("gravity",)

    def __init__(self, enough: float = 150.0, most: float = 30.0):
        self.enough, self.most = enough, most

    def on_update(self, state, metrics):
        gravity = state.env.params.gravity
        metrics["gravity"] = float(gravity)
        if not metrics["episode_return"] >= self.enough or gravity >= self.most:
            return None  # NaN if no episode has ended
        return eqx.tree_at(lambda s: s.env.params.gravity, state, gravity * 1.2)


if __name__ == "__main__":
    env = rlscan.make("CartPole-v1", gravity=jnp.asarray(9.8), max_steps_in_episode=200)
    policy = rlscan.policies.ActorCritic(env, dropout=0.1, key=rlscan.key(0))
    config = rlscan.ppo.PPOConfig(num_envs=16, num_steps=64, learning_rate=1e-3)
    rlscan.fit(
        policy,
        env,
        config,
        total_steps=200_000,
        output=sys.argv[1] if len(sys.argv) > 1 else "runs/curriculum",
        key=rlscan.key(1),
        callbacks=[Gravity()],
    )
