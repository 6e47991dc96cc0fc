"""The names of metrics in TensorBoard and in Weights & Biases, which group them by their prefix."""

import math
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

NAMES = {
    "episode_return": "rollout/episode_return",
    "return_mean_100": "rollout/return_mean_100",
    "episode_length": "rollout/episode_length",
    "num_episodes": "rollout/num_episodes",
    "loss": "loss/total",
    "policy_loss": "loss/policy",
    "value_loss": "loss/value",
    "entropy": "loss/entropy",
    "explained_variance": "loss/explained_variance",
    "kl_k1": "update/kl_k1",
    "approx_kl": "update/approx_kl",
    "clip_fraction": "update/clip_fraction",
    "grad_norm": "update/grad_norm",
    "learning_rate": "update/learning_rate",
    "num_gradient_steps": "update/num_gradient_steps",
    "diverged": "update/diverged",
    "audit_log_ratio": "audit/max_log_ratio",
    "audit_error": "audit/max_error",
    "audit_clip_fraction": "audit/clip_fraction",
    "audit_kl": "audit/kl",
    "seconds": "time/seconds",
    "steps_per_second": "time/steps_per_second",
}
"""The grouped name of each metric. Any other one is `metrics/NAME`, unless it has a slash."""

_PLACE = ("update", "step", "run", "seed")  # they identify a row, and are no metrics


def grouped(name: str) -> str:
    """The name of a metric, with the group that it belongs to in front."""
    return NAMES.get(name, name if "/" in name else f"metrics/{name}")


def metrics_in(row: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a row by their grouped names, without NaN: a mean over no episodes is NaN."""
    settings = settings_in(row)
    names = [name for name in row if name not in _PLACE and name not in settings]
    return {grouped(name): row[name] for name in names if not math.isnan(row[name])}


def settings_in(row: Mapping[str, Any]) -> dict[str, Any]:
    """The seed and the swept settings of a row, which stand before its `update`."""
    if "update" not in row:
        return {}
    return {
        name: row[name] for name in takewhile(lambda name: name != "update", row) if name != "run"
    }
