"""`AnnealedDropout`: dropout whose rate is a number at run time."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._trainable import NonTrainable
from .._types import PyTree

# The rate after so many updates, as optax writes its schedules.
Schedule = Callable[[Any], Any]


class AnnealedDropout(eqx.Module):
    """`eqx.nn.Dropout` with a rate that may change from update to update.

    The rate is an array: another one compiles nothing anew, and it can be mapped over. It is
    marked as `rlscan.NonTrainable`, so neither gradients nor weight decay reach it. Other than
    `eqx.nn.Dropout`, a rate of 0 draws its bits all the same; `inference` draws none.
    """

    rate: NonTrainable
    schedule: Schedule | None
    inference: bool

    def __init__(self, p: float | int | Array | Schedule, inference: bool = False):
        """**Arguments:**

        - `p`: the rate, in [0, 1); or a schedule, a function from the number of updates made so
            far to the rate, such as `optax.linear_schedule(0.5, 0.0, 400)`. `rlscan.train` follows
            it; a loop of one's own calls `rlscan.nn.anneal`. It must stay below 1 to its end.
        - `inference`: whether it is switched off, as `eqx.nn.inference_mode` does.

        **Raises:** `ValueError` for a rate, or a first one of a schedule, outside [0, 1).
        """
        self.schedule = p if callable(p) else None
        start: Any = p(0) if callable(p) else p
        if not isinstance(start, Tracer) and not 0 <= start < 1:
            raise ValueError(f"p must be in [0, 1), got {start}; 0 drops nothing")
        self.rate = NonTrainable(jnp.asarray(start, jnp.float32))
        self.inference = inference

    @property
    def p(self) -> Float[Array, ""]:
        """The rate as it stands."""
        return self.rate.value

    def __call__(
        self, x: Array, *, key: PRNGKeyArray | None = None, inference: bool | None = None
    ) -> Array:
        """As `eqx.nn.Dropout`: each element is 0 with probability p, else x / (1 − p)."""
        inference = self.inference if inference is None else inference
        rate: Any = self.p  # annotated as a Python float, but made for arrays, too
        # The rate is float32, and what is scaled by it would be, too.
        return eqx.nn.Dropout(rate, inference)(x, key=key).astype(x.dtype)


def anneal(policy: PyTree, num_updates: int | Int[Array, ""]) -> PyTree:
    """The policy with the rate of each `AnnealedDropout` where its schedule has it.

    **Arguments:**

    - `policy`: any pytree. Layers without a schedule stay as they are.
    - `num_updates`: how many updates have been made.
    """

    def follow(node: Any) -> Any:
        if not isinstance(node, AnnealedDropout) or node.schedule is None:
            return node
        rate = jnp.asarray(node.schedule(num_updates), jnp.float32)
        return eqx.tree_at(lambda layer: layer.rate.value, node, rate)

    return jax.tree.map(follow, policy, is_leaf=lambda node: isinstance(node, AnnealedDropout))


def dropout_layer(rate: float | int | Schedule) -> eqx.nn.Dropout | AnnealedDropout:
    """Dropout at a rate that stays, or follows a schedule."""
    return AnnealedDropout(rate) if callable(rate) else eqx.nn.Dropout(rate)
