"""`mix32`: a fast random generator, so that a policy's noise is cheap beside its network.

It is a counter-based generator (Salmon et al., *Parallel Random Numbers: As Easy as 1, 2, 3*,
2011). Word c of a key is a hash of the key and c, so any part of a stream can be drawn in any
order, and `vmap` draws the same. The hash has two rounds of xor-shift and multiplication, with
constants that Wellons found by search (*Hash Prospector*, 2018). The key's two words are mixed once
per draw. They enter before and between the rounds, so that all 64 bits affect each word.
threefry2x32 takes twenty rounds for two words.

It is meant for simulations, not for cryptography: a few words may reveal the key.
`python -m benchmarks.randomness` runs statistical tests on it.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import define_prng_impl
from jaxtyping import Array, Int, UInt32

# Domain separators, so that `split` and `fold_in` make different keys from equal numbers. Digits of
# π.
_SPLIT, _FOLD = 0x243F6A88, 0x85A308D3
_SEED = 0x03707344

_MOST_WORDS = 2**32  # per key, because the counter is a single word


def _word(key: UInt32[Array, "2"], counter: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Hash a key and counters to 32 random bits per counter."""
    # Mix every bit of the key into both words, by a bijection. XLA does it once for all counters.
    second = key[1] + key[0] * np.uint32(0xC2B2AE35)
    first = key[0] + (second ^ (second >> 16)) * np.uint32(0x85EBCA6B)
    # The work per word, which is kept minimal: a rollout is measurably slower for each operation.
    # The factor is 2^32 / the golden ratio, which spreads neighbouring counters.
    x = counter * np.uint32(0x9E3779B9) + first
    x = (x ^ (x >> 16)) * np.uint32(0x21F0AAAD) + second
    x = (x ^ (x >> 15)) * np.uint32(0xD35A2D97)
    # x is a bijection of the counter, so its words never repeat, but random words must. The sum
    # with the counter is not a bijection.
    return (x ^ (x >> 15)) + counter


def _words(key: UInt32[Array, "2"], num_words: int) -> UInt32[Array, " num_words"]:
    if num_words > _MOST_WORDS:
        raise ValueError(
            f"mix32 draws at most 2^32 words from one key, got a draw of {num_words}; "
            "split the key, and draw in parts"
        )
    return _word(key, lax.iota(np.uint32, num_words))


def _random_bits(key: UInt32[Array, "2"], bit_width: int, shape: tuple[int, ...]) -> Array:
    size = math.prod(shape)
    if bit_width == 32:
        return _words(key, size).reshape(shape)
    if bit_width == 64:
        high, low = _words(key, 2 * size).reshape(2, *shape).astype(np.uint64)
        return (high << 32) | low
    dtype = {8: np.uint8, 16: np.uint16}[bit_width]
    words = _words(key, -(-size * bit_width // 32))
    return lax.bitcast_convert_type(words, dtype).ravel()[:size].reshape(shape)


def _child(
    key: UInt32[Array, "2"], number: UInt32[Array, "..."], domain: int
) -> UInt32[Array, "... 2"]:
    """Derive a key for each number.

    For a fixed number it is a bijection of keys, and for a fixed key it is injective in the number.
    So different keys have different children, however often they are split: streams never merge.
    Words of `_word` would not do. The first two words of a key take only 2^49 of the 2^64 values,
    and chains of splits soon run into each other.
    """
    a, b = _halves(key, number, domain)
    # XLA would repeat this computation wherever a key is read, and compile time would grow
    # exponentially in the number of successive splits. The barrier prevents it. It must be around
    # the stacked keys: around `(a, b)`, compilation of a first state of Pendulum takes minutes.
    return lax.optimization_barrier(jnp.stack(jnp.broadcast_arrays(a, b), axis=-1))


def _halves(key: Any, number: Any, domain: int) -> tuple[Any, Any]:
    """Compute both words of a child, in JAX or in NumPy."""
    # A Feistel network: each half is added a hash of the other. Four rounds are needed for every
    # input bit to affect every output bit.
    a = key[0] + number * np.uint32(0x9E3779B9)
    b = key[1] + np.uint32(domain)
    b = b + _mixed(a, 0x21F0AAAD)
    a = a + _mixed(b, 0xD35A2D97)
    b = b + _mixed(a, 0x85EBCA6B)
    a = a + _mixed(b, 0xC2B2AE35)
    return a, b


def _mixed(x: Any, factor: int) -> Any:
    x = (x ^ (x >> 16)) * np.uint32(factor)
    return x ^ (x >> 15)


def _split(key: UInt32[Array, "2"], shape: tuple[int, ...]) -> UInt32[Array, "*shape 2"]:
    numbers = lax.iota(np.uint32, math.prod(shape))
    return _child(key, numbers, _SPLIT).reshape(*shape, 2)


def _fold_in(key: UInt32[Array, "2"], data: int | Int[Array, ""] | UInt32[Array, ""]) -> Array:
    return _child(key, lax.convert_element_type(data, np.uint32), _FOLD)


def _seed(seed: Int[Array, ""] | UInt32[Array, ""]) -> UInt32[Array, "2"]:
    high = seed >> 32 if seed.dtype.itemsize > 4 else jnp.zeros_like(seed)
    key = jnp.full(2, np.uint32(_SEED))
    return _fold_in(_fold_in(key, high), seed)


def words_of_seed(seed: int) -> UInt32[np.ndarray, "2"]:
    """Compute the words of a seed's key in NumPy.

    A key is the first thing that a program makes, and this compiles nothing.
    """
    key = np.full((2, 1), _SEED, np.uint32)
    for number in (seed >> 32, seed % 2**32):
        key = np.stack(_halves(key, np.full(1, number, np.uint32), _FOLD))
    return key[:, 0]


# Jitted, because keys are made outside of jitted functions, and compiling op by op is slow.
_inline = partial(jax.jit, inline=True)

mix32 = define_prng_impl(
    key_shape=(2,),
    seed=_inline(_seed),
    split=_inline(_split, static_argnums=1),
    random_bits=_inline(_random_bits, static_argnums=(1, 2)),
    fold_in=_inline(_fold_in),
    name="mix32",
    tag="mix32",
)
