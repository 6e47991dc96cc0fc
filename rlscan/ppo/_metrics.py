"""The metrics of an update, and a description of each."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped

from .._core.mesh import gather_environments, max_over_devices, mean_over_devices
from .._core.nan import nan_or
from .._core.require import is_flag, is_number
from .._core.scan import describe
from .._core.tree import wide
from .._core.types import PyTree
from .._rollout.state import Trajectory

Metrics = dict[str, Shaped[Array, "..."]]  # floats; counts are integers

METRICS = {
    "episode_return": "mean undiscounted return of the episodes that ended; NaN if none did",
    "episode_length": "their mean length, in environment steps; NaN if none did",
    "return_mean_100": "mean return of the last 100 episodes of the run; NaN before the first ends",
    "num_episodes": "number of episodes that ended",
    "loss": "mean over the minibatches evaluated; the same holds for the next five",
    "policy_loss": "clipped surrogate, negated",
    "value_loss": "half the mean squared error; in scaled rewards if scale_rewards",
    "entropy": "entropy of the policy, in nats",
    "kl_k1": "estimate of KL(old, new): mean −log ratio, in nats",
    "approx_kl": "estimate of the same (k3), never negative",
    "clip_fraction": "fraction of ratios outside 1 ± clip_range",
    "grad_norm": "global norm of the gradient before clipping",
    "learning_rate": "learning rate of the last gradient step that was applied",
    "num_gradient_steps": "gradient steps applied in this update; fewer if target_kl ended it",
    "audit_log_ratio": "max |log ratio| of the first minibatch, before any step: 0 up to rounding",
    "audit_error": "the same, relative to |log π| if that is above 1; what `strict` tests",
    "audit_clip_fraction": "clip_fraction of that minibatch: 0",
    "audit_kl": "approx_kl of that minibatch: 0",
    "explained_variance": "explained variance of the value targets by the values before the update",
    "diverged": "1 from the first update with a non-finite number, which is taken back; else 0",
}
"""A description of each metric of an update."""

_OF_LOSSES = ("policy_loss", "value_loss", "entropy")  # those that a loss reports


def loss_metrics(metrics: Any) -> Metrics:
    """The metrics that a loss reports, as floats of shape `()`.

    **Raises:** `ValueError` for what is not one real number, and for a name that the trainer writes
    itself; `TypeError` unless they are in a dict by name.
    """
    if not (isinstance(metrics, dict) and all(isinstance(name, str) for name in metrics)):
        raise TypeError(
            "a loss must return (loss, (log_ratio, metrics)) with metrics in a dict by name, got "
            f"{metrics!r}; return {{}} if there are none"
        )
    for name, value in metrics.items():
        if name in METRICS and name not in _OF_LOSSES:
            raise ValueError(
                f"the trainer writes the metric {name!r} itself, but the loss reports one of that "
                "name; give it another name"
            )
        if not (is_number(value) or is_flag(value)):
            raise ValueError(
                f"the metric {name!r} of a loss must be one real number, got {describe(value)}; "
                "reduce it, such as by jnp.mean, or report its parts under names of their own"
            )
    arrays = {name: jnp.asarray(value) for name, value in metrics.items()}
    return {name: x.astype(wide(x.dtype)) for name, x in arrays.items()}


def episodes_of(trajectory: Trajectory) -> tuple[Array, Array, Array]:
    """Whether a step ended an episode, and that one's return and length, `[T, N]`, of all devices.

    At other steps they are those of the episode so far.
    """
    ended = trajectory.terminated | trajectory.truncated
    return gather_environments((ended, trajectory.episode_return, trajectory.episode_length))


def episode_metrics(ended: Array, per_return: Array, per_length: Array) -> Metrics:
    """Average over the episodes that ended, see `episodes_of`."""
    num_episodes = ended.sum(dtype=jnp.int32)

    def mean(per_episode: Array) -> Array:
        total = jnp.where(ended, per_episode, 0).sum(dtype=jnp.float32)
        count = jnp.maximum(num_episodes, 1).astype(jnp.float32)
        return jnp.where(num_episodes > 0, total / count, nan_or(0.0))

    return {
        "episode_return": mean(per_return),
        "episode_length": mean(per_length),
        "num_episodes": num_episodes,
    }


def gradient_metrics(steps: dict[str, PyTree]) -> Metrics:
    """Reduce the reports of gradient steps, `[num_epochs, num_minibatches]`, to one number each."""
    steps = dict(steps)
    evaluated, applied = steps.pop("evaluated"), steps.pop("applied")
    max_log_ratio, error = steps.pop("max_log_ratio"), steps.pop("error")
    learning_rate, num_applied = steps.pop("learning_rate"), applied.sum(dtype=jnp.int32)
    averaged = mean_over_devices(steps["metrics"])
    means = {name: jnp.mean(values, where=evaluated) for name, values in averaged.items()}
    return {
        **means,
        # Applied steps come first, because a stop lasts. If there are none: that of the first try.
        "learning_rate": learning_rate.ravel()[jnp.maximum(num_applied - 1, 0)],
        "num_gradient_steps": num_applied,
        "audit_log_ratio": max_over_devices(max_log_ratio[0, 0]),
        "audit_error": max_over_devices(error[0, 0]),
        "audit_clip_fraction": averaged["clip_fraction"][0, 0],
        "audit_kl": averaged["approx_kl"][0, 0],
    }


def until_diverged(metrics: dict[str, Any]) -> dict[str, Any]:
    """Cut the metrics `[*R, k]` of k updates after the first in which every run has diverged."""
    diverged = (metrics["diverged"] > 0).reshape(-1, metrics["diverged"].shape[-1]).all(axis=0)
    length = diverged.argmax() + 1 if diverged.any() else len(diverged)
    return {name: values[..., :length] for name, values in metrics.items()}


def flag_divergence(
    metrics: Metrics, was_frozen: Bool[Array, ""], is_frozen: Bool[Array, ""]
) -> Metrics:
    """Add the metric `diverged`.

    Updates of a frozen run report NaN, and counts of 0. The update that diverged reports its
    metrics, but no gradient step, since its steps are taken back.
    """

    def blank(x: Array) -> Array:
        return jnp.where(was_frozen, nan_or(0.0) if jnp.issubdtype(x.dtype, jnp.inexact) else 0, x)

    seen = {name: blank(x) for name, x in metrics.items()}
    num_gradient_steps = jnp.where(is_frozen, 0, metrics["num_gradient_steps"])
    diverged = is_frozen.astype(jnp.int32)
    return {**seen, "num_gradient_steps": num_gradient_steps, "diverged": diverged}
