# pyright: reportMissingImports=false
import sys

import jax
from rejax import PPO

steps = int(sys.argv[1])
algorithm = PPO.create(
    env="CartPole-v1",
    num_envs=4,
    num_steps=128,
    num_epochs=4,
    num_minibatches=4,
    learning_rate=2.5e-4,
    total_timesteps=steps,
    eval_freq=steps,  # else it evaluates 128 episodes every 4,096 steps
    skip_initial_evaluation=True,
)
state, (lengths, returns) = jax.jit(algorithm.train)(jax.random.PRNGKey(0))
print("return", returns.mean())
