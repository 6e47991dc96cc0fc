# pyright: reportMissingImports=false
import sys

import jax
import jaxnasium
from jaxnasium.algorithms import PPO

env = jaxnasium.make("CartPole-v1")
algorithm = PPO(total_timesteps=int(sys.argv[1]), num_envs=4)
agent, returns = algorithm.train(jax.random.PRNGKey(0), env)
print("return", jax.numpy.nanmean(returns[-len(returns) // 10 :]))
