"""`mix32`: a light generator, so that a policy's noise costs little beside its network.

A counter-based generator (Salmon et al., *Parallel Random Numbers: As Easy as 1, 2, 3*, 2011): word
c of a key is a hash of key and c, so that any part of a stream is drawn in any order, and equally
under `vmap`. The hash is two rounds of xor-shift and multiplication, with constants that Wellons
found by search (*Hash Prospector*, 2018). The key is two words, mixed once for a whole draw, which
enter before and between the rounds, so that all of its 64 bits count. threefry2x32 takes twenty
rounds for two words.

It is for simulations. It is not for cryptography: who sees some words may well find the key.
`python -m benchmarks.randomness` runs the statistical tests that it is judged by.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import define_prng_impl
from jaxtyping import Array, Int, UInt32

# Added to a key that another is made of, so that parts (`split`) and what is folded in are two
# streams. Digits of π.
_SPLIT, _FOLD = 0x243F6A88, 0x85A308D3


_SEED = 0x03707344


_MOST_WORDS = 2**32  # of one key: they are counted by one word


def _word(key: UInt32[Array, "2"], counter: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """32 bits for each counter."""
    # Every bit of the key into both words, by a bijection. It is the same for all counters.
    second = key[1] + key[0] * np.uint32(0xC2B2AE35)
    first = key[0] + (second ^ (second >> 16)) * np.uint32(0x85EBCA6B)
    # What is left to do for each word. An operation more costs a percent of a rollout.
    x = counter * np.uint32(0x9E3779B9) + first  # 2^32 / the golden ratio: neighbours part
    x = (x ^ (x >> 16)) * np.uint32(0x21F0AAAD) + second
    x = (x ^ (x >> 15)) * np.uint32(0xD35A2D97)
    # Up to here another counter is always another word. In random numbers words do repeat.
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
    """Another key for each number, by a bijection of keys for each, and of numbers for each key.

    So two keys that differ have children that do, however often they split: streams never merge.
    Words of `_word` would not do: the first two of a key take but 2^49 of their 2^64 values, and
    of a thousand chains of splits dozens ran into each other within some ten thousand steps.
    """
    # A Feistel network: each half takes in a hash of the other. Four rounds are what it takes for
    # every bit to count for every other.
    a = key[0] + number * np.uint32(0x9E3779B9)
    b = key[1] + np.uint32(domain)
    b = b + _mixed(a, 0x21F0AAAD)
    a = a + _mixed(b, 0xD35A2D97)
    b = b + _mixed(a, 0x85EBCA6B)
    a = a + _mixed(b, 0xC2B2AE35)
    # A barrier, as XLA would write this out anew wherever a key is read: of keys that split and
    # split again that is exponential, and 1,024 resets took 78 s to compile. It holds the keys:
    # around `(a, b)` a first state of Pendulum took minutes to compile, where it takes 4 s.
    return lax.optimization_barrier(jnp.stack(jnp.broadcast_arrays(a, b), axis=-1))


def _mixed(x: UInt32[Array, "..."], factor: int) -> UInt32[Array, "..."]:
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


# Jitted, as a key is made outside of any program: op by op that compiles for half a second.
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
