"""PPO over rollouts that are replayed exactly."""

from ._algorithm import PPO as PPO, Algorithm as Algorithm
from ._config import PPOConfig as PPOConfig
from ._divergence import explain_divergence as explain_divergence
from ._finite import Divergence as Divergence, DivergenceError as DivergenceError
from ._hook import OnBatch as OnBatch
from ._losses import (
    Loss as Loss,
    Minibatch as Minibatch,
    clipped_policy_loss as clipped_policy_loss,
    clipped_value_loss as clipped_value_loss,
    normalize as normalize,
    ppo_loss as ppo_loss,
)
from ._metrics import METRICS as METRICS, Metrics as Metrics
from ._optimizer import Optimizer as Optimizer
from ._reward_scaling import (
    RewardScaling as RewardScaling,
    init_reward_scaling as init_reward_scaling,
    scale_rewards as scale_rewards,
)
from ._schedule import Schedule as Schedule
from ._train import train as train, train_scan as train_scan
from ._training import Training as Training
from ._update import TrainState as TrainState, init_train as init_train, update as update

__all__ = [
    "PPO",
    "Algorithm",
    "PPOConfig",
    "explain_divergence",
    "Divergence",
    "DivergenceError",
    "OnBatch",
    "Loss",
    "Minibatch",
    "clipped_policy_loss",
    "clipped_value_loss",
    "normalize",
    "ppo_loss",
    "METRICS",
    "Metrics",
    "Optimizer",
    "RewardScaling",
    "init_reward_scaling",
    "scale_rewards",
    "Schedule",
    "train",
    "train_scan",
    "Training",
    "TrainState",
    "init_train",
    "update",
]
