# pyright: reportMissingImports=false
import sys

from sbx import PPO
from stable_baselines3.common.env_util import make_vec_env

model = PPO("MlpPolicy", make_vec_env("CartPole-v1", 4), n_steps=128, batch_size=128, n_epochs=4)
model.learn(int(sys.argv[1]))
returns = [episode["r"] for episode in model.ep_info_buffer or ()]
print("return", sum(returns) / len(returns))
