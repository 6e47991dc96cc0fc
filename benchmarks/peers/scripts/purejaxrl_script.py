# pyright: reportMissingImports=false
import sys

import jax

sys.path.insert(0, f"{sys.argv[2]}/purejaxrl")
from ppo import make_train

config = {  # that of its `ppo.py`, which prints every episode as well
    "LR": 2.5e-4,
    "NUM_ENVS": 4,
    "NUM_STEPS": 128,
    "TOTAL_TIMESTEPS": int(sys.argv[1]),
    "UPDATE_EPOCHS": 4,
    "NUM_MINIBATCHES": 4,
    "GAMMA": 0.99,
    "GAE_LAMBDA": 0.95,
    "CLIP_EPS": 0.2,
    "ENT_COEF": 0.01,
    "VF_COEF": 0.5,
    "MAX_GRAD_NORM": 0.5,
    "ACTIVATION": "tanh",
    "ENV_NAME": "CartPole-v1",
    "ANNEAL_LR": True,
}
out = jax.jit(make_train(config))(jax.random.PRNGKey(0))
returns = out["metrics"]["returned_episode_returns"]
print("return", returns[-len(returns) // 10 :].mean())
