"""sbx."""
# pyright: reportMissingImports=false

from flax import linen as nn
from protocol import Program, serve
from sb3_program import sb3_program
from sbx import PPO


def make(workload: dict) -> Program:
    program = sb3_program(workload, PPO, nn.tanh)
    program.notes += [
        "an optimiser each for actor and critic",
        "compiles in every run",
        "initialises as flax does",
    ]
    return program


if __name__ == "__main__":
    serve(make)
