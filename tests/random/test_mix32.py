"""`mix32` against a reference in Python's integers, and the properties of a generator."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import count_compilations
from jax import lax

import rlscan
from rlscan import mix32
from rlscan.random._mix32 import _word

MASK = 2**32 - 1


def word(key: tuple[int, int], counter: int) -> int:
    k0, k1 = key
    second = (k1 + k0 * 0xC2B2AE35) & MASK
    first = (k0 + (second ^ second >> 16) * 0x85EBCA6B) & MASK
    x = (counter * 0x9E3779B9 + first) & MASK
    x = ((x ^ x >> 16) * 0x21F0AAAD + second) & MASK
    x = ((x ^ x >> 15) * 0xD35A2D97) & MASK
    return ((x ^ x >> 15) + counter) & MASK


def mixed(x: int, factor: int) -> int:
    x = ((x ^ x >> 16) * factor) & MASK
    return x ^ x >> 15


FACTORS = (0x21F0AAAD, 0xD35A2D97, 0x85EBCA6B, 0xC2B2AE35)


def child(key: tuple[int, int], number: int, domain: int) -> tuple[int, int]:
    a, b = (key[0] + (number & MASK) * 0x9E3779B9) & MASK, (key[1] + domain) & MASK
    for factor in FACTORS:
        a, b = (b + mixed(a, factor)) & MASK, a
    return a, b


def parent(key: tuple[int, int], number: int, domain: int) -> tuple[int, int]:
    """Invert `_child`: the parent of a child."""
    a, b = key
    for factor in reversed(FACTORS):
        a, b = b, (a - mixed(b, factor)) & MASK
    return (a - (number & MASK) * 0x9E3779B9) & MASK, (b - domain) & MASK


SPLIT, FOLD = 0x243F6A88, 0x85A308D3


def fold(key: tuple[int, int], data: int) -> tuple[int, int]:
    return child(key, data, FOLD)


KEYS = [(0, 0), (1, 0), (0, 1), (0xFFFFFFFF, 0x80000000), (0xDEADBEEF, 0x12345678)]


def wrap(key: tuple[int, int]) -> jax.Array:
    return jax.random.wrap_key_data(jnp.array(key, jnp.uint32), impl=mix32)


def data(key: jax.Array) -> list:
    return jax.random.key_data(key).tolist()


@pytest.mark.parametrize("key", KEYS)
def test_bits_splits_and_folds_are_those_of_the_reference(key: tuple[int, int]) -> None:
    bits = jax.random.bits(wrap(key), (3, 5))
    assert bits.tolist() == [[word(key, 5 * i + j) for j in range(5)] for i in range(3)]
    assert jax.random.bits(wrap(key)).item() == word(key, 0)
    parts = [list(child(key, i, SPLIT)) for i in range(6)]
    assert data(jax.random.split(wrap(key), 6)) == parts
    assert data(jax.random.split(wrap(key), (2, 3))) == [parts[:3], parts[3:]]
    for number in (0, 1, 7, 2**31, MASK):
        assert tuple(data(jax.random.fold_in(wrap(key), number))) == fold(key, number)


def test_words_and_splits_far_along_are_those_of_the_reference() -> None:
    key, n = KEYS[4], 2**22 + 3
    bits = jax.random.bits(wrap(key), (n,))
    assert bits[-5:].tolist() == [word(key, i) for i in range(n - 5, n)]
    parts = jax.random.split(wrap(key), n)
    assert data(parts[-5:]) == [list(child(key, i, SPLIT)) for i in range(n - 5, n)]


@pytest.mark.parametrize("seed", [0, 1, -1, 2**31 - 1, -(2**31)])
def test_seeds_are_hashed(seed: int) -> None:
    reference = fold(fold((0x03707344, 0x03707344), 0), seed)
    assert tuple(data(jax.random.key(seed, impl=mix32))) == reference


@pytest.mark.parametrize("width", [8, 16])
def test_narrow_draws_are_the_bytes_of_the_words(width: int) -> None:
    words = jax.random.bits(wrap(KEYS[4]), (11,))
    narrow = jax.random.bits(wrap(KEYS[4]), (3, 7), f"uint{width}")
    dtype = {8: jnp.uint8, 16: jnp.uint16}[width]
    assert narrow.dtype == dtype
    assert narrow.ravel().tolist() == lax.bitcast_convert_type(words, dtype).ravel()[:21].tolist()


def test_wide_draws_and_seeds_take_two_words() -> None:
    key = KEYS[4]
    with jax.enable_x64(True):
        wide = jax.random.bits(wrap(key), (2, 2), "uint64")
        reference = [word(key, i) << 32 | word(key, 4 + i) for i in range(4)]
        assert wide.ravel().tolist() == reference
        high = data(jax.random.key(5 + 2**40, impl=mix32))
    assert high != data(jax.random.key(5, impl=mix32))


def test_more_words_than_the_counter_counts_are_refused() -> None:
    draw = jax.jit(lambda key: jax.random.bits(key, (2**32 + 1,)))
    with pytest.raises(ValueError, match=r"at most 2\^32 words.* a draw of 4294967297; split"):
        draw.lower(wrap(KEYS[0]))


def draw_word(key: jax.Array, counter: jax.Array) -> jax.Array:
    return _word(jax.random.key_data(key), counter)[None]


def fold_word(key: jax.Array, number: jax.Array) -> jax.Array:
    return jax.random.key_data(jax.random.fold_in(key, number))


@pytest.mark.parametrize("hashed", [draw_word, fold_word])
def test_every_bit_of_key_and_counter_counts(hashed: Callable) -> None:
    """Flipping one of 96 bits flips each bit of the result with a probability of one half."""
    n = 1 << 14
    rng = np.random.default_rng(0)
    inputs = list(rng.integers(0, 2**32, (3, n), dtype=np.uint32))

    @jax.jit
    @jax.vmap
    def words(k0: jax.Array, k1: jax.Array, c: jax.Array) -> jax.Array:
        return hashed(jax.random.wrap_key_data(jnp.stack([k0, k1]), impl=mix32), c)

    base = words(*inputs)
    for which in range(3):
        for bit in range(32):
            near = list(inputs)
            near[which] = near[which] ^ np.uint32(1 << bit)
            flipped = np.asarray(words(*near) ^ base)
            share = ((flipped[..., None] >> np.arange(32)) & 1).mean(0)
            assert np.abs(share - 0.5).max() < 0.5 / np.sqrt(n) * 6, (which, bit)


@pytest.mark.parametrize("number", [0, 1, 2, 3, MASK])
def test_no_two_keys_have_a_child_in_common(number: int) -> None:
    """A child determines its parent, so streams of different keys never merge."""
    for key in KEYS:
        assert parent(child(key, number, SPLIT), number, SPLIT) == key
        assert parent(tuple(data(jax.random.fold_in(wrap(key), number))), number, FOLD) == key


@pytest.mark.slow
def test_words_of_one_key_repeat_as_often_as_random_ones() -> None:
    """Words repeat as random ones do; a bijection of the counter would never repeat a word."""
    n, num_keys = 1 << 17, 64
    keys = jax.random.split(rlscan.key(1), num_keys)
    words = np.asarray(jax.jit(jax.vmap(lambda key: jax.random.bits(key, (n,))))(keys))
    repeats = [n - len(np.unique(of_one)) for of_one in words]
    expected = num_keys * n * n / 2**33  # birthdays: 128
    assert abs(sum(repeats) - expected) < 6 * np.sqrt(expected)


def test_keys_that_share_a_word_have_streams_of_their_own() -> None:
    """2^17 keys that share a word all differ in their first two random words."""
    other = jnp.arange(1 << 17, dtype=jnp.uint32)
    for make in (lambda k: jnp.stack([jnp.uint32(9), k]), lambda k: jnp.stack([k, jnp.uint32(9)])):
        keys = jax.random.wrap_key_data(jax.vmap(make)(other), impl=mix32)
        streams = np.asarray(jax.vmap(lambda k: jax.random.bits(k, (2,)))(keys))
        assert len(np.unique(np.ascontiguousarray(streams).view(np.uint64))) == len(other)


def test_bits_splits_and_folds_of_one_key_are_apart() -> None:
    key = wrap(KEYS[4])
    folds = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(1000))
    drawn = [jax.random.bits(key, (2000,)), data(jax.random.split(key, 1000)), data(folds)]
    words = np.concatenate([np.ravel(np.asarray(part, np.uint32)) for part in drawn])
    assert len(np.unique(words)) > 5990  # of 6000, fewer than one of which repeats by chance


@pytest.mark.parametrize("seed", [0, 1, 123_456_789, 2**31, 2**32 - 1])
def test_the_key_of_a_known_seed_is_computed_without_compiling(seed: int) -> None:
    with count_compilations() as names:
        key = rlscan.key(seed)
    assert not names
    inside = jax.jit(rlscan.key)(np.uint32(seed))
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(inside))
