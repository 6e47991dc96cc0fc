"""Layers with orthogonal weights and zero biases."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def orthogonal(key: PRNGKeyArray, shape: tuple[int, ...], gain: float) -> Float[Array, "..."]:
    """Weights `[output, …]` whose rows, flattened, are orthogonal and of length `gain`; or whose
    columns are, where there are fewer of them."""
    # A batched QR decomposition, which is what `vmap` over seeds makes of this, can deadlock in
    # jaxlib 0.10 on two cores. One after the other costs milliseconds, once.
    initialize = jax.nn.initializers.orthogonal()
    flat = shape[0], math.prod(shape[1:])
    draw = jax.custom_batching.sequential_vmap(lambda k: initialize(k, flat, jnp.float32))
    return gain * draw(key).reshape(shape)


def linear(weight: Float[Array, "output input"]) -> eqx.nn.Linear:
    """A layer with this weight and a bias of zero."""
    num_outputs, num_inputs = weight.shape
    # The layer's own initialisation is thrown away, so it is never computed.
    layer = eqx.filter_eval_shape(eqx.nn.Linear, num_inputs, num_outputs, key=jax.random.key(0))
    return eqx.tree_at(lambda m: (m.weight, m.bias), layer, (weight, jnp.zeros(num_outputs)))


def convolution(weight: Float[Array, "output input height width"], stride: int) -> eqx.nn.Conv2d:
    """A layer with this kernel, without padding, and a bias of zero."""
    num_outputs, num_inputs, *kernel = weight.shape
    layer = eqx.filter_eval_shape(
        eqx.nn.Conv2d, num_inputs, num_outputs, kernel, stride, key=jax.random.key(0)
    )
    bias = jnp.zeros((num_outputs, 1, 1))
    return eqx.tree_at(lambda m: (m.weight, m.bias), layer, (weight, bias))
