"""`MLP`: linear layers with dropout."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from ._orthogonal import linear, orthogonal
from .nn import AnnealedDropout, Schedule
from .nn._annealed_dropout import dropout_layer


class MLP(eqx.Module):
    """Linear layers with an activation and dropout after each but the last."""

    layers: tuple[eqx.nn.Linear, ...]
    dropout: eqx.nn.Dropout | AnnealedDropout
    activation: Callable[[Array], Array]

    def __init__(
        self,
        weights: Sequence[Float[Array, "output input"]],
        activation: Callable[[Array], Array],
        dropout: float | int | Schedule,
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
    """The weights of several MLPs, orthogonal, with gains √2 (hidden) and each its own at the end.

    One function for all, under `jit`: layer by layer it takes four seconds to compile.
    """

    def weights(key: PRNGKeyArray, sizes: tuple[int, ...], final_gain: float) -> list[Array]:
        shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
        gains = [math.sqrt(2)] * (len(shapes) - 1) + [final_gain]
        keys = jax.random.split(key, len(shapes))
        return [orthogonal(k, s, g) for k, s, g in zip(keys, shapes, gains, strict=True)]

    return [weights(*one) for one in zip(keys, sizes, final_gains, strict=True)]
