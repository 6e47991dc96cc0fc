"""`check_ratio`: whether an update begins with the policy that acted."""

from collections.abc import Callable
from typing import Any

import numpy as np

import rlscan

from ._error import require, require_close


def check_ratio(first_log_ratios: Callable, *, tolerance: float = 1e-5, key: Any = None) -> None:
    """Checks that an update begins with the policy that acted.

    Before the first gradient step of an update, log π(a | s) − log π_old(a | s) is 0 up to
    rounding: with other masks, other statistics of a normaliser, or other actions than those that
    were recorded, it is not. (Its mean may well be 0: each of them is looked at.)

    **Arguments:**

    - `first_log_ratios`: `first_log_ratios(key) -> [U, …]`, the log-ratios of the first minibatch
        of each of U ≥ 2 updates. A policy that has just been initialised says nearly the same
        under any mask: let the later updates have learnt something.
    - `tolerance`: absolute; 1e-5 for discrete actions, 1e-4 for Gaussians.
    - `key`: consumed. `rlscan.key(0)` if not given.

    **Raises:** `ConformanceError`.

    Source: Hausknecht & Wagener, 2022, arXiv:2202.11818.
    """
    got = np.asarray(first_log_ratios(rlscan.key(0) if key is None else key), float)
    enough = got.ndim >= 1 and len(got) >= 2
    edit = "Return those of several updates, [U, …]"
    require(enough, "log-ratios of two updates at least", f"shape {got.shape}", edit)
    for update, log_ratio in enumerate(got):
        name = f"the log-ratio before the first gradient step of update {update + 1}"
        edit = (
            "Replay the recorded keys and actions, and keep the statistics of normalisers as they "
            "were from the first step of the rollout to the last epoch"
        )
        require_close(name, log_ratio, np.zeros_like(log_ratio), edit, tolerance=tolerance)
