"""`Encoder`: observations as vectors."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._core.require import is_positive_integer
from .._core.spaces import (
    Path,
    constant,
    is_box,
    is_discrete,
    is_mask,
    num_categories,
    one_hot,
    space_leaves,
)
from .._core.types import PyTree
from ..nn._mlp import linear, orthogonal
from ..random._keys import KeyLike, as_key
from ._patches import patches

NUM_CHANNELS = (16,)
"""One convolution of 16 channels, as for MinAtar (Young & Tian 2019, arXiv:1903.03176)."""


class Encoder(eqx.Module):
    """Encodes an observation as one vector, the concatenation of its encoded leaves.

    | leaf | becomes |
    |---|---|
    | Discrete, or each integer of MultiDiscrete | one-hot |
    | Box of shape `[height, width, channels]` | 3 × 3 convolutions, flattened |
    | any other Box, MultiBinary | its numbers, flattened |

    The vector is float32; a box of bytes from 0 to 255 is divided by 255. The leaves of a Dict are
    ordered by name. A Dict's `"action_mask"` is not encoded: it marks the legal actions (see
    `rlscan.policies.ActorCritic`). Only convolutions have parameters.
    """

    parts: tuple["Part", ...]
    """The encoder of each leaf of an observation."""
    paths: tuple[Path, ...] = eqx.field(static=True)
    """Where each leaf is in an observation."""
    size: int = eqx.field(static=True)
    """The number of entries of the vector."""

    def __init__(
        self,
        space: Any,
        *,
        key: KeyLike,
        num_channels: Sequence[int] = NUM_CHANNELS,
        activation: str | Callable[[Array], Array] = "relu",
    ):
        """
        **Arguments:**

        - `space`: the observation space, with gymnax's or Gymnasium's attributes.
        - `key`: consumed, for the weights of the convolutions.
        - `num_channels`: of each convolution of an image; if empty, images are flattened. The
            stride of a convolution is 2 if its input is wider or higher than 16 pixels, else 1.
        - `activation`: applied after each convolution; a function, or the name of one in `jax.nn`.

        **Raises:** `ValueError` for a space of another kind or with nothing to encode, for an
        invalid `num_channels`, and for an unknown activation.
        """
        leaves = [(p, leaf) for p, leaf in space_leaves(space) if not is_mask(p)]
        if not leaves:
            raise ValueError(_unfit(space))
        check_num_channels(num_channels)
        function = as_activation(activation)
        keys = jax.random.split(as_key(key), len(leaves))
        self.parts = tuple(
            _part(leaf, tuple(map(int, num_channels)), function, k)
            for (_, leaf), k in zip(leaves, keys, strict=True)
        )
        self.paths = tuple(path for path, _ in leaves)
        self.size = sum(part.size for part in self.parts)

    def __call__(self, observation: PyTree) -> Float[Array, " size"]:
        vectors = [
            part(_leaf_at(observation, path, part.shape))
            for path, part in zip(self.paths, self.parts, strict=True)
        ]
        return vectors[0] if len(vectors) == 1 else jnp.concatenate(vectors)


class _OneHot(eqx.Module):
    """Encodes integers, each with its own number of categories."""

    num_categories: tuple[int, ...] = eqx.field(static=True)
    start: tuple[int, ...] = eqx.field(static=True)  # the smallest value of each
    shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def size(self) -> int:
        return sum(self.num_categories)

    def __call__(self, x: Any) -> Float[Array, " size"]:
        index = jnp.ravel(x).astype(jnp.int32) - jnp.asarray(self.start, jnp.int32)
        return jnp.concatenate(
            [one_hot(i, n) for i, n in zip(index, self.num_categories, strict=True)]
        )


class _Flat(eqx.Module):
    """Flattens numbers."""

    shape: tuple[int, ...] = eqx.field(static=True)
    is_bytes: bool = eqx.field(static=True)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __call__(self, x: Any) -> Float[Array, " size"]:
        return _in_float32(x, self.is_bytes).ravel()


class _Image(eqx.Module):
    """Encodes an image `[height, width, channels]` of any size with convolutions."""

    layers: tuple[eqx.nn.Linear, ...]  # a convolution each, applied to every patch
    activation: Callable[[Array], Array]
    kernels: tuple[tuple[int, int], ...] = eqx.field(static=True)  # height and width of a patch
    strides: tuple[int, ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    is_bytes: bool = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __call__(self, x: Any) -> Float[Array, " size"]:
        x = _in_float32(x, self.is_bytes)
        for layer, kernel, stride in zip(self.layers, self.kernels, self.strides, strict=True):
            x = self.activation(jax.vmap(jax.vmap(layer))(patches(x, kernel, stride)))
        return x.ravel()


Part = _OneHot | _Flat | _Image


def check_num_channels(num_channels: Sequence[int]) -> None:
    """Raise `ValueError` unless `num_channels` is a sequence of positive integers."""
    is_list = isinstance(num_channels, Sequence) and not isinstance(num_channels, str)
    if not (is_list and all(map(is_positive_integer, num_channels))):
        got = list(num_channels) if is_list else num_channels
        raise ValueError(
            f"num_channels must be positive integers, got {got}; such as [16], or [] for no "
            "convolution"
        )


def as_activation(activation: str | Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Look up an activation function, given as itself or by its name in `jax.nn`.

    **Raises:** `ValueError` unless it keeps the shape and dtype of an array.
    """
    function = getattr(jax.nn, activation, None) if isinstance(activation, str) else activation
    hidden = jax.ShapeDtypeStruct((3,), jnp.float32)
    try:
        output = jax.eval_shape(function, hidden)  # pyright: ignore
        # Not `output == hidden`, which also compares the sharding, and fails inside a mesh.
        fits = (output.shape, output.dtype) == (hidden.shape, hidden.dtype)
    except Exception:  # anything: it may be no function at all
        fits = False
    if not fits:
        raise ValueError(
            "activation must be a function that keeps the shape of an array, or the name of one "
            f"in jax.nn, got {activation!r}; such as tanh, relu, silu or gelu"
        )
    return function  # pyright: ignore


def _part(space: Any, num_channels: tuple[int, ...], activation: Callable, key: Array) -> Part:
    if is_discrete(space):
        return _OneHot((int(constant(space, "n")),), (int(getattr(space, "start", 0)),), ())
    if hasattr(space, "nvec"):
        nvec = constant(space, "nvec")
        start = np.broadcast_to(getattr(space, "start", 0), nvec.shape)
        return _OneHot(tuple(nvec.ravel().tolist()), tuple(start.ravel().tolist()), nvec.shape)
    if not (is_box(space) or num_categories(space) is not None):
        raise ValueError(_unfit(space))
    shape = tuple(map(int, space.shape))
    if len(shape) != 3 or not num_channels:
        return _Flat(shape, _is_bytes(space))
    kernels, strides, shapes, size = _convolutions(shape, num_channels)
    layers = tuple(map(linear, _weights(key, shapes)))
    return _Image(layers, activation, kernels, strides, shape, _is_bytes(space), size)


def _convolutions(shape: tuple[int, ...], num_channels: tuple[int, ...]) -> tuple[Any, ...]:
    """`(kernels, strides, shapes, size)`: of the patches, the strides and the weights of each
    layer, and of the flattened output."""
    height, width, channels = shape
    kernels, strides, shapes = [], [], []
    for num_outputs in num_channels:
        kernel = min(3, height), min(3, width)  # an image may be smaller than 3 × 3
        # With stride 1, an image of 84 × 84 would become 100,000 inputs of each hidden unit.
        stride = 2 if max(height, width) > 16 else 1
        kernels.append(kernel)
        strides.append(stride)
        shapes.append((num_outputs, math.prod(kernel) * channels))
        height, width = (height - kernel[0]) // stride + 1, (width - kernel[1]) // stride + 1
        channels = num_outputs
    return tuple(kernels), tuple(strides), tuple(shapes), height * width * channels


@partial(jax.jit, static_argnums=1)
def _weights(key: PRNGKeyArray, shapes: tuple[tuple[int, int], ...]) -> list[Array]:
    keys = jax.random.split(key, len(shapes))
    return [orthogonal(k, shape, math.sqrt(2)) for k, shape in zip(keys, shapes, strict=True)]


def _is_bytes(space: Any) -> bool:
    """Whether a space holds bytes over their whole range, like the colours of an image."""
    is_uint8 = np.dtype(getattr(space, "dtype", np.float32)) == np.uint8
    return is_uint8 and is_box(space) and bool(np.all(constant(space, "high") == 255))


def _in_float32(x: Any, is_bytes: bool) -> Float[Array, "..."]:
    x = jnp.asarray(x).astype(jnp.float32)
    return x / 255 if is_bytes else x


def _leaf_at(observation: PyTree, path: Path, shape: tuple[int, ...]) -> Any:
    """Look up a leaf of an observation, and check its shape."""
    leaf, at = observation, "".join(f"[{name!r}]" for name in path)
    try:
        for name in path:
            if isinstance(name, str) and not isinstance(leaf, Mapping):
                leaf = getattr(leaf, name)
            else:
                leaf = leaf[name]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(
            f"this policy takes observations with a part {at}, got one of structure "
            f"{jax.tree.structure(observation)}; {_BUILD}"
        ) from None
    if jnp.shape(leaf) != shape:
        raise ValueError(
            f"this policy takes observations{at} of shape {shape}, got one of shape "
            f"{jnp.shape(leaf)}; {_BUILD}"
        )
    return leaf


_BUILD = "build it for the environment that it acts in"


def _unfit(space: Any) -> str:
    return (
        "an Encoder takes observations of a Discrete, MultiDiscrete, MultiBinary or Box space, or "
        f"of a Dict or Tuple of them, got {space!r}; write a policy of your own: any eqx.Module "
        "that follows the contract of rlscan.Policy"
    )
