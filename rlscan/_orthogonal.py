"""Layers with orthogonal weights and zero biases."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def orthogonal(
    key: PRNGKeyArray, shape: tuple[int, int], gain: float
) -> Float[Array, "output input"]:
    """Weights whose rows are orthogonal and of length `gain`; or whose columns, if fewer."""
    # A batched QR decomposition, which is what `vmap` over seeds makes of this, can deadlock in
    # jaxlib 0.10 on two cores. One after the other costs milliseconds, once.
    initialize = jax.nn.initializers.orthogonal()
    draw = jax.custom_batching.sequential_vmap(lambda k: initialize(k, shape, jnp.float32))
    return gain * draw(key)


def linear(weight: Float[Array, "output input"]) -> eqx.nn.Linear:
    """A layer with this weight and a bias of zero."""
    num_outputs, num_inputs = weight.shape
    # The layer's own initialisation is thrown away, so it is never computed.
    layer = eqx.filter_eval_shape(eqx.nn.Linear, num_inputs, num_outputs, key=jax.random.key(0))
    return eqx.tree_at(lambda m: (m.weight, m.bias), layer, (weight, jnp.zeros(num_outputs)))
