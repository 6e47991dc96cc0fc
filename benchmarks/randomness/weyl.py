"""A bad generator that the tests must detect: its words are a constant apart."""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import define_prng_impl
from jaxtyping import Array, Int, UInt32


def _words(key: UInt32[Array, "2"], shape: tuple[int, ...]) -> UInt32[Array, "*shape"]:
    counter = lax.iota(np.uint32, math.prod(shape)).reshape(shape)
    return key[0] + key[1] + counter * np.uint32(0x9E3779B9)


def _random_bits(key: UInt32[Array, "2"], bit_width: int, shape: tuple[int, ...]) -> Array:
    if bit_width != 32:
        raise NotImplementedError(f"weyl draws words of 32 bits, got {bit_width}")
    return _words(key, shape)


def _fold_in(key: UInt32[Array, "2"], data: int | Int[Array, ""] | UInt32[Array, ""]) -> Array:
    return key + jnp.asarray(data, np.uint32)


def _seed(seed: Int[Array, ""] | UInt32[Array, ""]) -> UInt32[Array, "2"]:
    return _fold_in(jnp.zeros(2, np.uint32), seed)


weyl = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=lambda key, shape: _words(key, (*shape, 2)),
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="weyl",
    tag="weyl",
)
