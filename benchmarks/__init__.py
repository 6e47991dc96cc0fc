"""Measurements of what rlscan claims: `python -m benchmarks`, or from Python for your rollouts."""

from benchmarks._time_rollouts import time_rollouts as time_rollouts
