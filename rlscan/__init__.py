"""Jitted reinforcement-learning rollouts of stochastic Equinox policies, replayed exactly."""

from . import nn as nn
from ._action_head import ActionHead as ActionHead
from ._actor_critic import ActorCritic as ActorCritic
from ._audit import AuditError as AuditError, explain_ratio as explain_ratio
from ._check import check_policy as check_policy
from ._curves import read_metrics as read_metrics
from ._devices import (
    configure_cpu as configure_cpu,
    make_mesh as make_mesh,
    num_cores as num_cores,
    on_devices as on_devices,
)
from ._divergence import explain_divergence as explain_divergence
from ._encoders import Encoder as Encoder
from ._envs import (
    ENVIRONMENTS as ENVIRONMENTS,
    GymnaxEnvironment as GymnaxEnvironment,
    make as make,
    reset_where as reset_where,
)
from ._evaluate import (
    Evaluation as Evaluation,
    Spread as Spread,
    evaluate as evaluate,
)
from ._export import (
    ExportedPolicy as ExportedPolicy,
    export as export,
    load_exported as load_exported,
)
from ._frame_stack import FrameStack as FrameStack
from ._gradient_step import Minibatch as Minibatch, ppo_loss as ppo_loss
from ._iqm import bootstrap_interval as bootstrap_interval, iqm as iqm
from ._keeps_statistics import KeepsStatistics as KeepsStatistics, Steps as Steps
from ._last_action_reward import LastActionReward as LastActionReward
from ._loggers import Logger as Logger, Loggers as Loggers
from ._losses import (
    clipped_policy_loss as clipped_policy_loss,
    clipped_value_loss as clipped_value_loss,
    normalize as normalize,
)
from ._memory import transition_bytes as transition_bytes
from ._metrics import METRICS as METRICS, Metrics as Metrics
from ._mix32 import mix32 as mix32
from ._next_value import next_value as next_value
from ._normalize import NormalizedObservations as NormalizedObservations
from ._observe_only import ObserveOnly as ObserveOnly
from ._policy_file import load_policy as load_policy
from ._ppo import (
    TrainState as TrainState,
    init_train as init_train,
    update as update,
)
from ._ppo_config import PPOConfig as PPOConfig
from ._random import (
    GENERATORS as GENERATORS,
    KeyData as KeyData,
    key as key,
    key_data as key_data,
    keys_from_data as keys_from_data,
)
from ._recurrent import RecurrentActorCritic as RecurrentActorCritic
from ._replay import replay as replay
from ._returns import gae as gae
from ._reward_scaling import (
    RewardScaling as RewardScaling,
    init_reward_scaling as init_reward_scaling,
    scale_rewards as scale_rewards,
)
from ._rollout import (
    FinalObservations as FinalObservations,
    RolloutState as RolloutState,
    Trajectory as Trajectory,
    init_rollout as init_rollout,
    rollout as rollout,
)
from ._scan import filter_scan as filter_scan
from ._sentinel import Divergence as Divergence, DivergenceError as DivergenceError
from ._spaces import action_mask as action_mask
from ._statistics import move_statistics as move_statistics
from ._train import train as train, train_scan as train_scan
from ._trainable import (
    NonTrainable as NonTrainable,
    partition_trainable as partition_trainable,
)
from ._transformer import TransformerActorCritic as TransformerActorCritic
from ._types import (
    Distribution as Distribution,
    Environment as Environment,
    Policy as Policy,
    SequencePolicy as SequencePolicy,
)
from ._version import __version__ as __version__
from ._with_statistics import WithStatistics as WithStatistics
