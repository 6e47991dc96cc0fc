"""The environments of the study, with the settings that were fixed beforehand."""

import dataclasses
import math
from typing import Any

from jaxtyping import PRNGKeyArray

import rlscan
from benchmarks.consistency.policies import Recurrent, feed_forward

RATES = (0.05, 0.1, 0.25, 0.5, 0.75)
TARGET_KLS = (math.inf, 0.015)


@dataclasses.dataclass(frozen=True)
class Task:
    """An environment with its budget and settings, the same in all arms."""

    name: str  # on the command line and in cell names
    env: str
    total_steps: int  # environment steps of one run, over all N
    num_seeds: int
    config: rlscan.ppo.PPOConfig
    policy: str  # "tanh" or "relu", an activation; or "recurrent"
    episode_steps: int  # no episode is longer
    rates: tuple[float, ...] = RATES
    tolerance: float = 1e-5  # for audit_error if masks are replayed

    def build(self, env: rlscan.Environment, *, key: PRNGKeyArray) -> Any:
        """Make a new policy."""
        if self.policy == "recurrent":
            return Recurrent(env, key=key)
        return feed_forward(env, self.policy, key=key)

    def settings(self) -> dict[str, Any]:
        """Everything that a result depends on beside the arm and the seeds, as it is kept."""
        ppo = {
            name: None if isinstance(value, float) and math.isinf(value) else value
            for name, value in vars(self.config).items()
            if name != "target_kl"  # belongs to the arm
        }
        return {"env": self.env, "total_steps": self.total_steps, "policy": self.policy, "ppo": ppo}


CARTPOLE = Task(
    name="cartpole",
    env="CartPole-v1",
    total_steps=100_000,
    num_seeds=20,
    config=rlscan.ppo.PPOConfig(
        num_envs=16,
        num_steps=64,
        learning_rate=1e-3,
        gamma=0.98,
        gae_lambda=0.8,
        entropy_coef=0.0,
    ),
    policy="tanh",
    episode_steps=500,
)
ACROBOT = Task(
    name="acrobot",
    env="Acrobot-v1",
    total_steps=150_000,
    num_seeds=20,
    config=rlscan.ppo.PPOConfig(num_envs=16, num_steps=128, learning_rate=1e-3),
    policy="tanh",
    episode_steps=500,
)
PENDULUM = Task(
    name="pendulum",
    env="Pendulum-v1",
    total_steps=200_000,
    num_seeds=20,
    config=rlscan.ppo.PPOConfig(
        num_envs=16,
        num_steps=128,
        num_epochs=8,
        learning_rate=1e-3,
        gamma=0.9,
        entropy_coef=0.0,
    ),
    policy="tanh",
    episode_steps=200,
    tolerance=1e-4,
)
MEMORY_CHAIN = Task(
    name="memorychain",
    env="MemoryChain-bsuite",
    total_steps=150_000,
    num_seeds=10,
    config=rlscan.ppo.PPOConfig(num_envs=32, num_steps=32, learning_rate=1e-3),
    policy="recurrent",
    episode_steps=7,
)
BREAKOUT = Task(
    name="breakout",
    env="Breakout-MinAtar",
    total_steps=1_000_000,
    num_seeds=10,
    config=rlscan.ppo.PPOConfig(num_envs=64, num_steps=128, num_minibatches=8, learning_rate=5e-3),
    policy="relu",
    episode_steps=1000,
    rates=(0.1, 0.5),
)
TASKS = {task.name: task for task in (CARTPOLE, ACROBOT, PENDULUM, MEMORY_CHAIN, BREAKOUT)}
