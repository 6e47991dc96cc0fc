"""Advantages and value targets of one stream of experience."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from .._core.nan import nan_or

# A hyper-parameter: a number, or an array of shape () where it is traced or mapped over.
Scalar = float | int | Float[Array, ""]


def gae(
    reward: Float[Array, " T"],
    value: Float[Array, " T"],
    next_value: Float[Array, " T"],
    terminated: Bool[Array, " T"],
    truncated: Bool[Array, " T"],
    *,
    gamma: Scalar,
    gae_lambda: Scalar,
) -> tuple[Float[Array, " T"], Float[Array, " T"]]:
    """Estimate advantages by GAE, for episodes that terminate or are truncated.

    For t = T−1 … 0, with Â_T = 0:

        δₜ = rₜ + γ (1 − terminatedₜ) V(s′ₜ) − V(sₜ)
        Âₜ = δₜ + γ λ (1 − (terminatedₜ ∨ truncatedₜ)) Âₜ₊₁

    Both ends cut the trace; only termination means that no reward would have followed. λ = 0 gives
    TD(0) errors, λ = 1 the discounted return minus the value.

    **Arguments:** one stream, T steps of one environment; `jax.vmap` it over environments.

    - `reward`: rₜ.
    - `value`: V(sₜ).
    - `next_value`: V(s′ₜ) of what followed step t before any reset, see `rlscan.next_value`. Not
        read at terminated steps.
    - `terminated`, `truncated`: how the step ended its episode, if it did. If both are set, the
        episode terminated.
    - `gamma`: γ, discount per environment step.
    - `gae_lambda`: λ, in [0, 1].

    **Returns:** `(advantage, target)`: Âₜ, and Âₜ + V(sₜ), which the value function is fitted to.

    **Raises:** `ValueError` if the five arrays do not have the same shape: `[T]` and `[T, 1]` would
    broadcast to `[T, T]`.

    Source: Schulman et al., *High-Dimensional Continuous Control Using Generalized Advantage
    Estimation*, 2016, arXiv:1506.02438, eq. 16; the treatment of time limits is that of Pardo et
    al., 2018, arXiv:1712.00378.
    """
    _require_one_shape(
        reward=reward,
        value=value,
        next_value=next_value,
        terminated=terminated,
        truncated=truncated,
    )
    # `where`, not a product: the entry of a terminated step may be anything, even NaN.
    following = jnp.where(terminated, 0.0, next_value)
    delta = reward + gamma * following - value
    decay = jnp.where(terminated | truncated, 0.0, gamma * gae_lambda)

    def backwards(advantage: Array, at_t: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, decay = at_t
        advantage = delta + decay * advantage
        return advantage, advantage

    _, advantage = lax.scan(backwards, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)
    return advantage, advantage + value


def _require_one_shape(**arrays: Array) -> None:
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"the arrays of gae must be of one shape [T], got {given}; "
            "squeeze a value head of one output, and vmap over environments"
        )


def explained_variance(
    value: Float[Array, "*batch"], target: Float[Array, "*batch"]
) -> Float[Array, ""]:
    """1 − Var(target − value) / Var(target): 1 for a perfect fit, NaN where targets are equal."""
    variance = jnp.var(target)
    # Targets that should be equal differ by the rounding of A + V and of their mean.
    rounding = 8 * jnp.finfo(variance.dtype).eps * jnp.abs(target).max()
    is_equal = variance <= rounding**2
    unexplained = jnp.var(target - value) / jnp.where(is_equal, 1, variance)
    return jnp.where(is_equal, nan_or(0.0), 1 - unexplained)
