"""Runs: run directories, checkpoints, logs, and reading them again afterwards.

`Run` keeps any training loop in a run directory. The command `rlscan train` is such a loop, around
`rlscan.train`.
"""

from .._rollout.audit import with_audit as with_audit
from ._callbacks import (
    Callback as Callback,
    Stop as Stop,
)
from ._checkpoint import load_checkpoint as load_checkpoint, save_checkpoint as save_checkpoint
from ._compare import compare as compare
from ._evaluations import evaluation_key as evaluation_key, summarize as summarize
from ._fit import fit as fit
from ._loggers import (
    Logger as Logger,
    Loggers as Loggers,
    TensorBoardLogger as TensorBoardLogger,
    WandbLogger as WandbLogger,
)
from ._policy_file import load_policy as load_policy, save_policy as save_policy
from ._progress import Progress as Progress
from ._read import read_metrics as read_metrics
from ._ready_callbacks import Snapshot as Snapshot, StopAtReturn as StopAtReturn
from ._report import report as report
from ._run import Run as Run
from ._scores import bootstrap_interval as bootstrap_interval, iqm as iqm

__all__ = [
    "with_audit",
    "Callback",
    "Stop",
    "load_checkpoint",
    "save_checkpoint",
    "compare",
    "evaluation_key",
    "summarize",
    "fit",
    "Logger",
    "Loggers",
    "TensorBoardLogger",
    "WandbLogger",
    "load_policy",
    "save_policy",
    "Progress",
    "read_metrics",
    "Snapshot",
    "StopAtReturn",
    "report",
    "Run",
    "bootstrap_interval",
    "iqm",
]
