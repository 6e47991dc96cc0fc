"""Runs: configs, run directories, checkpoints, logs, and what is read from them afterwards."""

from ._loggers import Logger as Logger, Loggers as Loggers
from ._policy_file import load_policy as load_policy, save_policy as save_policy
from ._read import read_metrics as read_metrics
from ._scores import bootstrap_interval as bootstrap_interval, iqm as iqm
