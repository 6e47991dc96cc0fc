"""What rlscan claims, measured: `python -m benchmarks`, or from Python, of rollouts of your own."""

from benchmarks._time_rollouts import time_rollouts as time_rollouts
