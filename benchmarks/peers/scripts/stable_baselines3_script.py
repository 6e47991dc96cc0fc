# pyright: reportMissingImports=false
import sys

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

torch.set_num_threads(1)  # faster in so small a network
env = make_vec_env("CartPole-v1", 4)
model = PPO("MlpPolicy", env, n_steps=128, batch_size=128, n_epochs=4, device="cpu")
model.learn(int(sys.argv[1]))
returns = [episode["r"] for episode in model.ep_info_buffer or ()]
print("return", sum(returns) / len(returns))
