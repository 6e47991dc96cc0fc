"""Jitted reinforcement-learning rollouts of stochastic Equinox policies, replayed exactly.

The names below are what an agent of your own needs. All else is in one room for each concern:
`rlscan.policies`, `rlscan.envs`, `rlscan.ppo`, `rlscan.nn`, `rlscan.random`, `rlscan.runs` and
`rlscan.testing`.
"""

from . import (
    envs as envs,
    nn as nn,
    policies as policies,
    ppo as ppo,
    random as random,
    runs as runs,
)
from ._check.policy import check_policy as check_policy
from ._core.cpu import configure_cpu as configure_cpu, num_cores as num_cores
from ._core.mesh import make_mesh as make_mesh, on_devices as on_devices
from ._core.scan import filter_scan as filter_scan
from ._core.types import (
    Distribution as Distribution,
    Environment as Environment,
    Policy as Policy,
    SequencePolicy as SequencePolicy,
)
from ._rollout.audit import AuditError as AuditError, explain_ratio as explain_ratio
from ._rollout.evaluate import (
    Evaluation as Evaluation,
    Spread as Spread,
    evaluate as evaluate,
)
from ._rollout.gae import gae as gae
from ._rollout.next_observation import next_observation as next_observation
from ._rollout.next_value import next_value as next_value
from ._rollout.replay import replay as replay
from ._rollout.rollout import (
    init_rollout as init_rollout,
    rollout as rollout,
    transition_bytes as transition_bytes,
)
from ._rollout.state import (
    FinalObservations as FinalObservations,
    RolloutState as RolloutState,
    Trajectory as Trajectory,
    Transition as Transition,
)
from ._rollout.statistics import move_statistics as move_statistics
from ._version import __version__ as __version__

# Also importable from here, as they were before each room had a name of its own.
from .envs import (
    ENVIRONMENTS as ENVIRONMENTS,
    FrameStack as FrameStack,
    GymnaxEnvironment as GymnaxEnvironment,
    LastActionReward as LastActionReward,
    ObserveOnly as ObserveOnly,
    make as make,
    reset_where as reset_where,
)
from .nn import (
    KeepsStatistics as KeepsStatistics,
    NonTrainable as NonTrainable,
    Steps as Steps,
    WithStatistics as WithStatistics,
    partition_trainable as partition_trainable,
)
from .policies import (
    ActionHead as ActionHead,
    ActorCritic as ActorCritic,
    Encoder as Encoder,
    ExportedPolicy as ExportedPolicy,
    NormalizedObservations as NormalizedObservations,
    RecurrentActorCritic as RecurrentActorCritic,
    TransformerActorCritic as TransformerActorCritic,
    action_mask as action_mask,
    export as export,
    load_exported as load_exported,
)
from .ppo import (
    METRICS as METRICS,
    Divergence as Divergence,
    DivergenceError as DivergenceError,
    Metrics as Metrics,
    Minibatch as Minibatch,
    PPOConfig as PPOConfig,
    RewardScaling as RewardScaling,
    TrainState as TrainState,
    clipped_policy_loss as clipped_policy_loss,
    clipped_value_loss as clipped_value_loss,
    explain_divergence as explain_divergence,
    init_reward_scaling as init_reward_scaling,
    init_train as init_train,
    normalize as normalize,
    ppo_loss as ppo_loss,
    scale_rewards as scale_rewards,
    train as train,
    train_scan as train_scan,
    update as update,
)
from .random import (
    GENERATORS as GENERATORS,
    KeyData as KeyData,
    key as key,
    key_data as key_data,
    keys_from_data as keys_from_data,
    mix32 as mix32,
)
from .runs import (
    Logger as Logger,
    Loggers as Loggers,
    bootstrap_interval as bootstrap_interval,
    fit as fit,
    iqm as iqm,
    load_policy as load_policy,
    read_metrics as read_metrics,
)

from . import testing as testing  # isort: skip

__all__ = [
    # What acts, and replays
    "rollout",
    "init_rollout",
    "replay",
    "next_value",
    "next_observation",
    "gae",
    "evaluate",
    "filter_scan",
    "key",
    "make",
    "train",
    "fit",
    "load_policy",
    # What says whether it is right
    "check_policy",
    "explain_ratio",
    "AuditError",
    "transition_bytes",
    "move_statistics",
    # Protocols
    "Policy",
    "SequencePolicy",
    "Environment",
    "Distribution",
    # What a rollout and an evaluation return
    "RolloutState",
    "Trajectory",
    "Transition",
    "FinalObservations",
    "Evaluation",
    "Spread",
    # Devices
    "configure_cpu",
    "num_cores",
    "make_mesh",
    "on_devices",
    # Rooms
    "envs",
    "nn",
    "policies",
    "ppo",
    "random",
    "runs",
    "testing",
    "__version__",
]


def __dir__() -> list[str]:
    return sorted(__all__)
