"""Encoders of observations that a user brings, and rlscan's own, built and called alike."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PRNGKeyArray

from .._core.require import is_positive_integer
from .._core.spaces import space_shapes
from .._core.types import PyTree
from ..nn._statistics import WithStatistics
from ._encoder import NUM_CHANNELS, Encoder

# `encoder(space, key=key)` gives a module that is called as `module(observation) -> [size]`.
MakeEncoder = Callable[..., Any]

_DOMAIN = 0x13198A2E  # digits of π; an encoder's key is folded in by a number that no one counts to


def make_encoder(
    make: MakeEncoder | None,
    space: Any,
    *,
    key: PRNGKeyArray,
    num_channels: Sequence[int],
    activation: Callable[[Array], Array],
) -> tuple[Any, int]:
    """Build the encoder of a network.

    **Arguments:**

    - `make`: the user's class or function; `None` for rlscan's own, which alone takes
        `num_channels` and `activation`.
    - `space`: the observation space.

    **Returns:** the encoder and the size of its vectors.

    **Raises:** `TypeError` if `make` does not give an `eqx.Module`; `ValueError` if that does not
    map an observation to a vector, or if `num_channels` is set although it has no use.
    """
    if make is None:
        own = Encoder(space, key=key, num_channels=num_channels, activation=activation)
        return own, own.size
    if tuple(num_channels) != NUM_CHANNELS:
        raise ValueError(
            "num_channels are those of rlscan's own encoder, but encoder = "
            f"{_name(make)} and num_channels = {list(num_channels)}; give one of the two"
        )
    if isinstance(make, eqx.Module) or not callable(make):
        raise TypeError(
            "encoder must be a class or a function, called as encoder(space, key=key) once for "
            f"each network, got {make!r}; pass the class, or lambda space, key: {_name(make)}(…)"
        )
    try:
        encoder = make(space, key=key)
    except TypeError as error:
        error.add_note(
            f"raised by encoder(space, key=key) with encoder = {_name(make)}; give a class with "
            f"other arguments as lambda space, key: {_name(make)}(…, key=key)"
        )
        raise
    if not isinstance(encoder, eqx.Module):
        is_stateful = isinstance(encoder, tuple) and any(
            isinstance(x, eqx.nn.State) for x in encoder
        )
        edit = "make its class a subclass of eqx.Module"
        if is_stateful:
            edit = "put both into rlscan.nn.WithStatistics(network, state)"
        raise TypeError(
            f"{_name(make)}(space, key=key) must give an eqx.Module, got a "
            f"{type(encoder).__name__}; {edit}"
        )
    if isinstance(encoder, WithStatistics):
        encoder = _FirstResult(encoder)
    return encoder, _size(make, encoder, space)


class _FirstResult(eqx.Module):
    """An encoder whose network keeps statistics, and returns the vector as the first value."""

    network: WithStatistics

    def __call__(self, observation: PyTree, *, key: PRNGKeyArray) -> Array:
        return self.network(observation, (), key=key)[0]


def encode(encoder: Any, observation: PyTree, key: PRNGKeyArray) -> Array:
    """Call an encoder; one with noise gets a key of its own, derived from the network's."""
    if not _takes_key(encoder):
        return encoder(observation)
    return encoder(observation, key=jax.random.fold_in(key, _DOMAIN))


def encode_steps(encoder: Any, observation: PyTree, key: Key[Array, " T"]) -> Array:
    """`encode` for T steps."""
    if not _takes_key(encoder):
        return jax.vmap(encoder)(observation)
    one = lambda observation, key: encode(encoder, observation, key)  # noqa: E731
    return eqx.filter_vmap(one)(observation, key)


def _takes_key(encoder: Any) -> bool:
    # Python 3.13 does not see the signature of a method through `eqx.filter_jit`.
    call = inspect.unwrap(type(encoder).__call__)
    return "key" in inspect.signature(call).parameters


def _size(make: MakeEncoder, encoder: Any, space: Any) -> int:
    """The length of an encoder's vectors: that for an observation, or the one that it declares."""
    try:
        key = jax.eval_shape(lambda: jax.random.key(0))
        vector = eqx.filter_eval_shape(encode, encoder, space_shapes(space), key)
    except Exception as error:
        declared: Any = getattr(encoder, "size", None)
        if is_positive_integer(declared):
            return int(declared)
        error.add_note(
            f"raised by {_name(make)} for an observation of {space!r}, while the size of its "
            "vector was looked for; give it an attribute `size` if observations have another form"
        )
        raise
    is_vector = len(getattr(vector, "shape", ())) == 1
    if not (is_vector and vector.size and jnp.issubdtype(vector.dtype, jnp.floating)):
        raise ValueError(
            f"{_name(make)} must map an observation to a vector of floats [size], got {vector}; "
            "flatten it with jnp.ravel"
        )
    return vector.size


def _name(make: Any) -> str:
    return getattr(make, "__name__", type(make).__name__)
