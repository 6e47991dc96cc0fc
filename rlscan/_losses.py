"""PPO's losses and diagnostics, as functions of arrays."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._returns import Scalar


def normalize(advantage: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Zero mean and unit standard deviation over the minibatch; 0 where all are equal."""
    # From the first one on, as a mean of large equal numbers differs from them by rounding, and
    # a deviation of nothing but rounding would be scaled up to ±1.
    advantage = advantage - advantage.ravel()[0]
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


def clipped_policy_loss(
    log_ratio: Float[Array, "*batch"],
    advantage: Float[Array, "*batch"],
    clip_range: Scalar,
) -> Float[Array, ""]:
    """PPO's clipped surrogate, as a loss.

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
    """½ mean max((V − R)², (clip(V, V_old ± ε) − R)²); an infinite ε leaves ½ mean (V − R)².

    The larger of the two: clipping may hold a value back, and never makes the loss smaller.

    **Arguments:**

    - `value`: V, of the policy under training.
    - `old_value`: V_old, of the policy that acted.
    - `target`: R, see `rlscan.gae`.
    - `clip_range`: ε, in units of the value; `inf` for none.

    Source: Huang et al., *The 37 Implementation Details of Proximal Policy Optimization*, 2022,
    detail 9.
    """
    near = old_value + jnp.clip(value - old_value, -clip_range, clip_range)
    return 0.5 * jnp.maximum((value - target) ** 2, (near - target) ** 2).mean()


def ratio_diagnostics(
    log_ratio: Float[Array, "*batch"], clip_range: Scalar
) -> dict[str, Float[Array, ""]]:
    """How far the policy has moved from the one that acted.

    `kl_k1` = mean −log r, unbiased and noisy; `approx_kl` = mean (r − 1) − log r (k3), unbiased
    and never negative; `clip_fraction`, of the ratios outside 1 ± ε.

    Source: Schulman, *Approximating KL Divergence*, 2020.
    """
    ratio = jnp.exp(log_ratio)
    return {
        "kl_k1": -log_ratio.mean(),
        # expm1 keeps the digits that (r − 1) would lose next to 1.
        "approx_kl": (jnp.expm1(log_ratio) - log_ratio).mean(),
        "clip_fraction": (jnp.abs(ratio - 1) > clip_range).mean(dtype=jnp.float32),
    }


def relative_error(
    log_ratio: Float[Array, "*batch"], old_log_prob: Float[Array, "*batch"]
) -> Float[Array, ""]:
    """max |log r| / max(1, |log π_old|): rounding grows with the number that is rounded."""
    return (jnp.abs(log_ratio) / jnp.maximum(1, jnp.abs(old_log_prob))).max()
