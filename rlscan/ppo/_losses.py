"""PPO's losses and diagnostics, as functions of arrays."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._core.field_docs import with_field_docs
from .._core.scan import describe
from .._core.types import Policy, PyTree
from .._rollout.gae import Scalar
from .._rollout.replay import replay
from .._rollout.state import Trajectory
from ._config import PPOConfig
from ._metrics import Metrics


def normalize(advantage: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Shift and scale to mean 0 and standard deviation 1 over the minibatch; 0 if all are equal."""
    # Relative to the first one: the mean of large equal numbers differs from them by rounding, and
    # a deviation that is only rounding would be scaled up to ±1.
    advantage = advantage - advantage.ravel()[0]
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


def clipped_policy_loss(
    log_ratio: Float[Array, "*batch"],
    advantage: Float[Array, "*batch"],
    clip_range: Scalar,
) -> Float[Array, ""]:
    """Compute PPO's clipped surrogate, as a loss.

    −mean min(r Â, clip(r, 1 − ε, 1 + ε) Â), with r = exp(log_ratio).

    **Arguments:**

    - `log_ratio`: log π(a | s) − log π_old(a | s).
    - `advantage`: Â.
    - `clip_range`: ε.

    Source: Schulman et al., *Proximal Policy Optimization Algorithms*, 2017, arXiv:1707.06347,
    eq. 7.
    """
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1 - clip_range, 1 + clip_range)
    return -jnp.minimum(ratio * advantage, clipped * advantage).mean()


def clipped_value_loss(
    value: Float[Array, "*batch"],
    old_value: Float[Array, "*batch"],
    target: Float[Array, "*batch"],
    clip_range: Scalar,
) -> Float[Array, ""]:
    """Compute ½ mean max((V − R)², (clip(V, V_old ± ε) − R)²); with ε = ∞, ½ mean (V − R)².

    The maximum means that clipping can hold a value back, but never makes the loss smaller.

    **Arguments:**

    - `value`: V, from the policy being trained.
    - `old_value`: V_old, from the policy that acted.
    - `target`: R, see `rlscan.gae`.
    - `clip_range`: ε, in units of the value; `inf` clips nothing.

    Source: Huang et al., *The 37 Implementation Details of Proximal Policy Optimization*, 2022,
    detail 9.
    """
    near = old_value + jnp.clip(value - old_value, -clip_range, clip_range)
    return 0.5 * jnp.maximum((value - target) ** 2, (near - target) ** 2).mean()


def ratio_diagnostics(
    log_ratio: Float[Array, "*batch"], clip_range: Scalar
) -> dict[str, Float[Array, ""]]:
    """Measure how far the policy has moved from the one that acted.

    `kl_k1` = mean −log r, unbiased and noisy; `approx_kl` = mean (r − 1) − log r (k3), unbiased
    and never negative; `clip_fraction`, the fraction of ratios outside 1 ± ε.

    Source: Schulman, *Approximating KL Divergence*, 2020.
    """
    ratio = jnp.exp(log_ratio)
    return {
        "kl_k1": -log_ratio.mean(),
        # expm1 keeps the digits that r − 1 loses near 1.
        "approx_kl": (jnp.expm1(log_ratio) - log_ratio).mean(),
        "clip_fraction": (jnp.abs(ratio - 1) > clip_range).mean(dtype=jnp.float32),
    }


@with_field_docs
class Minibatch(eqx.Module):
    """The input of a loss: B steps, or T steps of n environments for a recurrent policy."""

    trajectory: Trajectory
    """The steps, with leaves `[B, …]` or `[T, n, …]`."""
    value: Float[Array, "*B"]
    """The value of each step, from the policy that acted."""
    advantage: Float[Array, "*B"]
    """The advantage of each step, not normalised."""
    target: Float[Array, "*B"]
    """The target of the value function."""
    next_observation: PyTree = None
    """The observation after each step, see `rlscan.next_observation`; a compiled program computes
    it only if the loss reads it."""


# `loss(policy, minibatch, config) -> (loss, (log_ratio, metrics))`: a scalar to minimise, the
# log-ratios [B] that the audit and the KL stop read, and real numbers to report, by names that
# `METRICS` does not have: only `policy_loss`, `value_loss` and `entropy` are a loss's own.
Loss = Callable[[Policy, Minibatch, PPOConfig], tuple[Array, tuple[Array, Metrics]]]


def parts_of_loss(result: Any) -> tuple[Any, tuple[Any, Any]]:
    """What a loss returned; `TypeError` if it is not `(loss, (log_ratio, metrics))`."""
    is_pair = isinstance(result, tuple) and len(result) == 2
    if not (is_pair and isinstance(result[1], tuple) and len(result[1]) == 2):
        raise TypeError(
            f"loss must return (loss, (log_ratio, metrics)), see rlscan.ppo.ppo_loss, got "
            f"{describe(result)}"
        )
    return result


def ppo_loss(
    policy: Policy, minibatch: Minibatch, config: PPOConfig
) -> tuple[Float[Array, ""], tuple[Float[Array, "*B"], Metrics]]:
    """Compute PPO's loss by exact replay.

    Clipped surrogate + value_coef · value loss − entropy_coef · entropy.

    The default `loss` of `update` and `train`. Any function with the same arguments and results can
    replace it. Advantages are normalised over the minibatch.

    **Returns:** `(loss, (log_ratio, metrics))`, with log π(a | s) − log π_old(a | s) per step.
    """
    log_prob, entropy, value = replay(policy, minibatch.trajectory)
    log_ratio = log_prob - minibatch.trajectory.log_prob
    policy_loss = clipped_policy_loss(log_ratio, normalize(minibatch.advantage), config.clip_range)
    value_loss = clipped_value_loss(
        value, minibatch.value, minibatch.target, config.value_clip_range
    )
    entropy = entropy.mean()
    loss = policy_loss + config.value_coef * value_loss - config.entropy_coef * entropy
    metrics = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
    return loss, (log_ratio, metrics)
