"""stable-baselines3."""
# pyright: reportMissingImports=false

import torch
from protocol import Program, serve
from sb3_program import sb3_program
from stable_baselines3 import PPO


def make(workload: dict) -> Program:
    torch.set_num_threads(1)  # in networks as small as these, threads mostly wait for each other
    program = sb3_program(workload, PPO, torch.nn.Tanh, device="cpu")
    program.notes += ["torch has one thread, which is faster here"]
    return program


if __name__ == "__main__":
    serve(make)
