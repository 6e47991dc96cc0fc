# pyright: reportMissingImports=false
import sys

import jax
from lerax.algorithm import PPO
from lerax.env import CartPole
from lerax.policy import MLPActorCriticPolicy

env = CartPole()
policy = MLPActorCriticPolicy(env=env, key=jax.random.key(0))
algorithm = PPO(num_envs=4, num_steps=128, num_epochs=4, num_batches=4)
policy = algorithm.learn(env, policy, total_timesteps=int(sys.argv[1]), key=jax.random.key(1))
jax.block_until_ready(policy)
print("done")  # it keeps no returns
