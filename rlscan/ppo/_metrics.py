"""What an update reports: its metrics, and what each of them is."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped

from .._core.mesh import gather, max_over, mean_over
from .._rollout.state import Trajectory

Metrics = dict[str, Shaped[Array, "..."]]  # floats; counts are integers


METRICS = {
    "episode_return": "mean undiscounted return of the episodes that ended; NaN if none did",
    "episode_length": "their mean length, in environment steps; NaN if none did",
    "num_episodes": "how many ended",
    "loss": "mean over the minibatches that were looked at, as all of the next five",
    "policy_loss": "clipped surrogate, negated",
    "value_loss": "half the mean squared error; in scaled rewards if scale_rewards",
    "entropy": "of the policy, in nats",
    "kl_k1": "estimate of KL(old, new): mean −log ratio, in nats",
    "approx_kl": "estimate of the same (k3), never negative",
    "clip_fraction": "of the ratios, how many were outside 1 ± clip_range",
    "grad_norm": "global norm of the gradient before clipping",
    "learning_rate": "at the last gradient step that was applied",
    "num_gradient_steps": "applied in this update; fewer than all where target_kl ended it",
    "audit_log_ratio": "max |log ratio| of the first minibatch, before any step: 0 up to rounding",
    "audit_error": "the same, relative to |log π| where that is above 1; what `strict` looks at",
    "audit_clip_fraction": "of its ratios, how many were outside 1 ± clip_range: 0",
    "audit_kl": "of that minibatch, approx_kl: 0",
    "explained_variance": "of the value targets, by the values that acted",
    "diverged": "1 from the update on in which something was not finite, which is taken back; or 0",
}
"""What each metric of an update is."""


def episode_metrics(trajectory: Trajectory, axis: str | None = None) -> Metrics:
    """Of the episodes that ended in `[T, N]` steps, on all devices of the axis."""
    ended, per_return, per_length = gather(
        axis,
        (
            trajectory.terminated | trajectory.truncated,
            trajectory.episode_return,
            trajectory.episode_length,
        ),
    )
    num_episodes = ended.sum(dtype=jnp.int32)

    def mean(per_episode: Array) -> Array:
        total = jnp.where(ended, per_episode, 0).sum(dtype=jnp.float32)
        return jnp.where(num_episodes > 0, total / num_episodes, jnp.nan)

    return {
        "episode_return": mean(per_return),
        "episode_length": mean(per_length),
        "num_episodes": num_episodes,
    }


def gradient_metrics(steps: Metrics, axis: str | None = None) -> Metrics:
    """One number each of what the gradient steps reported, `[num_epochs, num_minibatches]`."""
    steps = dict(steps)
    evaluated, applied = steps.pop("evaluated"), steps.pop("applied")
    max_log_ratio, error = steps.pop("max_log_ratio"), steps.pop("error")
    learning_rate, num_applied = steps.pop("learning_rate"), applied.sum(dtype=jnp.int32)
    steps = mean_over(axis, steps)
    means = {name: jnp.mean(values, where=evaluated) for name, values in steps.items()}
    return {
        **means,
        # Those applied come first, as a stop lasts. Where there is none: that of the first try.
        "learning_rate": learning_rate.ravel()[jnp.maximum(num_applied - 1, 0)],
        "num_gradient_steps": num_applied,
        "audit_log_ratio": max_over(axis, max_log_ratio[0, 0]),
        "audit_error": max_over(axis, error[0, 0]),
        "audit_clip_fraction": steps["clip_fraction"][0, 0],
        "audit_kl": steps["approx_kl"][0, 0],
    }


def until_diverged(metrics: dict[str, Any]) -> dict[str, Any]:
    """Of the metrics `[k]` of some updates those up to the first that diverged."""
    diverged = metrics["diverged"] > 0
    length = diverged.argmax() + 1 if diverged.any() else len(diverged)
    return {name: values[:length] for name, values in metrics.items()}


def flagged(metrics: Metrics, was_frozen: Bool[Array, ""], is_frozen: Bool[Array, ""]) -> Metrics:
    """With `diverged`. Once a run is frozen its updates report NaN, and counts of 0; that in which
    it diverged reports what was seen, but no step, as they are taken back."""

    def blank(x: Array) -> Array:
        return jnp.where(was_frozen, jnp.nan if jnp.issubdtype(x.dtype, jnp.inexact) else 0, x)

    seen = {name: blank(x) for name, x in metrics.items()}
    num_gradient_steps = jnp.where(is_frozen, 0, metrics["num_gradient_steps"])
    diverged = is_frozen.astype(jnp.int32)
    return {**seen, "num_gradient_steps": num_gradient_steps, "diverged": diverged}
