"""Streams of 32-bit words as `jax.random` draws them: from one key, and from related keys."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Key, PRNGKeyArray, UInt32

from benchmarks.randomness.weyl import weyl
from rlscan import mix32

# The generator under test, two that are known to be good, and one that must fail.
GENERATORS: dict[str, Any] = {
    "mix32": mix32,
    "threefry2x32": "threefry2x32",
    "philox4x32": "philox4x32",
    "weyl": weyl,
}

CHUNK = 2**20  # words drawn at a time
FEW = 4  # words drawn from each of many keys
NUM_CHAINS = 2**10

# A part of one long draw is cheap, because XLA computes no more than the part. But on CPUs, JAX
# draws threefry2x32 in a loop, which has no parts, so its keys give one chunk each.
_WORDS_PER_KEY = {"threefry2x32": CHUNK}

# Takes a state and returns the next one, with words. A stream is a step and its first state.
Step = Callable[[Any], tuple[Any, UInt32[Array, " words"]]]


def counter(key: PRNGKeyArray) -> tuple[Step, Any]:
    """Words 0, 1, 2, … of one key; after 2^32 of them, those of the next key."""
    words_per_key = _WORDS_PER_KEY.get(str(jax.random.key_impl(key)), 2**32)

    def step(state: Any) -> tuple[Any, Array]:
        key, start = state
        words = lax.dynamic_slice(jax.random.bits(key, (words_per_key,)), (start,), (CHUNK,))
        return _advanced(key, start, CHUNK, words_per_key), words

    return step, (key, jnp.uint32(0))


def split(key: PRNGKeyArray) -> tuple[Step, Any]:
    """The first four words of each of many keys split from one, as in dropout masks."""

    def step(key: PRNGKeyArray) -> tuple[Any, Array]:
        key, parent = jax.random.split(key)
        return key, _few_words(jax.random.split(parent, CHUNK // FEW))

    return step, key


def chain(key: PRNGKeyArray) -> tuple[Step, Any]:
    """Chains of keys, as in a rollout: a key splits into the next one and one for four words.

    1024 chains of 256 steps, one after the other; then 256 further steps of each, and so on.
    """

    def one(keys: Key[Array, " chains"], _: None) -> tuple[Any, Array]:
        parts = jax.vmap(jax.random.split)(keys)
        return parts[:, 0], _few_words(parts[:, 1]).reshape(NUM_CHAINS, FEW)

    def step(keys: Key[Array, " chains"]) -> tuple[Any, Array]:
        keys, words = lax.scan(one, keys, length=CHUNK // NUM_CHAINS // FEW)
        return keys, words.swapaxes(0, 1).ravel()

    return step, jax.random.split(key, NUM_CHAINS)


def fold_in(key: PRNGKeyArray) -> tuple[Step, Any]:
    """The first four words of `fold_in(key, 0)`, `fold_in(key, 1)`, …"""
    num_keys = CHUNK // FEW

    def step(state: Any) -> tuple[Any, Array]:
        key, start = state
        numbers = start + jnp.arange(num_keys, dtype=jnp.uint32)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
        return _advanced(key, start, num_keys, 2**32), _few_words(keys)

    return step, (key, jnp.uint32(0))


def one_bit(key: PRNGKeyArray) -> tuple[Step, Any]:
    """Word 0 of a key and of all keys that differ from it in one bit, then word 1 of them, …

    After 2^14 words of each, another key.
    """

    def step(key: PRNGKeyArray) -> tuple[Any, Array]:
        key, base = jax.random.split(key)
        data = jax.random.key_data(base)
        bits = jnp.uint32(1) << jnp.arange(32, dtype=jnp.uint32)
        flips = jnp.kron(jnp.eye(len(data), dtype=jnp.uint32), bits[:, None])
        near = jnp.concatenate([data[None], data ^ flips])
        keys = jax.random.wrap_key_data(near, impl=jax.random.key_impl(base))
        return key, jax.vmap(lambda key: jax.random.bits(key, (CHUNK // 64,)))(keys).T.ravel()

    return step, key


STREAMS: dict[str, Callable[[PRNGKeyArray], tuple[Step, Any]]] = {
    stream.__name__: stream for stream in (counter, split, chain, fold_in, one_bit)
}


def draw(generator: str, stream: str, seed: int) -> Iterator[UInt32[np.ndarray, " words"]]:
    """The words of a stream, without end, in chunks of some megabytes."""
    step, state = STREAMS[stream](jax.random.key(seed, impl=GENERATORS[generator]))
    step = jax.jit(step)
    state, words = step(state)
    while True:
        state, following = step(state)  # JAX computes these while the reader uses the others
        yield np.asarray(words)
        words = following


def _few_words(keys: Key[Array, " keys"]) -> UInt32[Array, " words"]:
    return jax.vmap(lambda key: jax.random.bits(key, (FEW,)))(keys).ravel()


def _advanced(key: PRNGKeyArray, start: Array, by: int, period: int) -> tuple[PRNGKeyArray, Array]:
    """The next position. At the end of a key, after a power of 2, it is in the next key."""
    start = (start + np.uint32(by)) & np.uint32(period - 1)
    return jnp.where(start == 0, jax.random.split(key)[0], key), start
