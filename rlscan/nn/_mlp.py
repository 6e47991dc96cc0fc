"""`MLP`: linear layers with orthogonal weights and zero biases."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._dropout import AnnealedDropout, Schedule, dropout_layer


def orthogonal(
    key: PRNGKeyArray, shape: tuple[int, int], gain: float
) -> Float[Array, "output input"]:
    """A weight that gives its outputs the variance gain² for inputs of variance 1.

    Its rows are orthogonal with norm `gain`. If there are more outputs than inputs, its columns
    are, with norm gain · √(outputs / inputs); the outputs' variances are then gain² on average.
    """
    num_outputs, num_inputs = shape
    # Without this, rows would be shorter the more of them there are, and 64 units would hardly see
    # an observation of 4 numbers. `python -m benchmarks.peers run --only learn-mlp` shows its cost.
    gain *= math.sqrt(max(1.0, num_outputs / num_inputs))
    # Under vmap over seeds this would be a batched QR decomposition, which can deadlock in jaxlib
    # 0.10 on two cores. One decomposition at a time costs milliseconds, once.
    initialize = jax.nn.initializers.orthogonal()
    draw = jax.custom_batching.sequential_vmap(lambda k: initialize(k, shape, jnp.float32))
    return gain * draw(key)


def linear(weight: Float[Array, "output input"]) -> eqx.nn.Linear:
    """A linear layer with a given weight and a bias of zero."""
    num_outputs, num_inputs = weight.shape
    # Only the shapes: the layer's own initialisation would be computed and thrown away.
    layer = eqx.filter_eval_shape(eqx.nn.Linear, num_inputs, num_outputs, key=jax.random.key(0))
    return eqx.tree_at(lambda m: (m.weight, m.bias), layer, (weight, jnp.zeros(num_outputs)))


class MLP(eqx.Module):
    """Linear layers, with an activation and dropout after each one except the last."""

    layers: tuple[eqx.nn.Linear, ...]
    dropout: eqx.nn.Dropout | AnnealedDropout
    activation: Callable[[Array], Array]

    def __init__(
        self,
        weights: Sequence[Float[Array, "output input"]],
        activation: Callable[[Array], Array],
        dropout: float | int | Array | Schedule,
    ):
        self.layers = tuple(linear(weight) for weight in weights)
        self.dropout = dropout_layer(dropout)
        self.activation = activation

    def __call__(self, x: Float[Array, " input"], *, key: PRNGKeyArray) -> Float[Array, " output"]:
        keys = jax.random.split(key, len(self.layers))
        for layer, layer_key in zip(self.layers[:-1], keys, strict=False):
            x = self.dropout(self.activation(layer(x)), key=layer_key)
        return self.layers[-1](x)


@partial(jax.jit, static_argnums=(1, 2))
def orthogonal_weights(
    keys: tuple[PRNGKeyArray, ...],
    sizes: tuple[tuple[int, ...], ...],
    final_gains: tuple[float, ...],
) -> list[list[Float[Array, "output input"]]]:
    """Draw orthogonal weights for several MLPs, with gain √2 for the hidden layers.

    All are drawn in one jitted function, because compiling a function for each layer takes seconds.

    **Arguments:**

    - `keys`: consumed, one for each MLP.
    - `sizes`: the numbers of units of each MLP, from its input to its output.
    - `final_gains`: the gain of each MLP's last layer.
    """

    def weights(key: PRNGKeyArray, sizes: tuple[int, ...], final_gain: float) -> list[Array]:
        shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
        gains = [math.sqrt(2)] * (len(shapes) - 1) + [final_gain]
        keys = jax.random.split(key, len(shapes))
        return [orthogonal(k, s, g) for k, s, g in zip(keys, shapes, gains, strict=True)]

    return [weights(*one) for one in zip(keys, sizes, final_gains, strict=True)]
