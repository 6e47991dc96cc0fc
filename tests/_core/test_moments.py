"""Running moments against float64, over many batches and far from 0."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlscan
from rlscan._core.mesh import FIRST, WHOLE, sharded
from rlscan._core.moments import Moments, Sum, merge, no_moments

MESH = rlscan.make_mesh(2)


def merged(batches: Any, dtype: Any = jnp.float32) -> Moments:
    """Merge batches `[K, B, …]` one after another, in one compiled loop."""

    @jax.jit
    def run(batches: Any) -> Moments:
        start = no_moments(batches.shape[2:], dtype)
        return jax.lax.scan(lambda m, batch: (merge(m, batch), None), start, batches)[0]

    return run(jnp.asarray(batches, dtype))


def total(s: Sum) -> np.ndarray:
    return np.asarray(s.value, np.float64) + np.asarray(s.lost, np.float64)


def test_moments_equal_those_of_all_samples_together() -> None:
    samples = np.random.default_rng(0).normal([0, -3, 1e4], [1, 1e-2, 30], (7, 64, 3))
    samples = samples.astype(np.float32)
    moments, exact = merged(samples), samples.astype(np.float64).reshape(-1, 3)
    assert moments.count.value == 7 * 64
    np.testing.assert_allclose(total(moments.mean), exact.mean(axis=0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(moments.variance, exact.var(axis=0), rtol=1e-5)
    np.testing.assert_allclose(total(moments.squares), exact.var(axis=0) * len(exact), rtol=1e-5)


def test_moments_do_not_depend_on_the_batches() -> None:
    samples = np.random.default_rng(1).normal(5, 2, (64, 2))
    one, many = merged(samples[None]), merged(samples.reshape(16, 4, 2))
    single = merged(samples.reshape(64, 1, 2))
    for other in (many, single):
        np.testing.assert_allclose(total(other.mean), total(one.mean), rtol=1e-6)
        np.testing.assert_allclose(other.variance, one.variance, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0, 4096])
def test_after_a_hundred_million_samples(offset: int) -> None:
    """The mean is a thousand deviations from 0, and moves all the time.

    All numbers are multiples of 1/128 below 2^13, so they are exact in float32, and float64 sums
    them exactly. Each batch is the same pattern around its own mean.
    """
    rng = np.random.default_rng(2)
    pattern = np.round(128 * rng.normal(size=1000)) / 128
    drift = offset + np.round(128 * 3 * np.sin(np.linspace(0, 3, 100_000))) / 128

    @jax.jit
    def run(drift: Any) -> Moments:
        def one(moments: Moments, mean: Any) -> tuple[Moments, None]:
            return merge(moments, jnp.asarray(pattern, jnp.float32) + mean), None

        return jax.lax.scan(one, no_moments(()), drift)[0]

    moments = run(jnp.asarray(drift, jnp.float32))
    variance = pattern.var() + drift.var()
    assert total(moments.count) == 1e8
    error = total(moments.mean) - (pattern.mean() + drift.mean())
    assert abs(error) <= 1e-6 * max(np.sqrt(variance), offset)
    np.testing.assert_allclose(moments.variance, variance, rtol=1e-5)


def test_counting_continues_where_float32_would_saturate() -> None:
    ones = jnp.ones(1000)
    start = Sum(jnp.asarray(2.0**24), jnp.zeros(()))
    end = jax.jit(lambda s: jax.lax.scan(lambda s, x: (s.plus(x), None), s, ones)[0])(start)
    assert total(end) == 2**24 + 1000
    naive = jax.jit(lambda s: jax.lax.scan(lambda s, x: (s + x, None), s, ones)[0])(start.value)
    assert naive == 2**24


def test_a_batch_far_from_the_first_is_merged_accurately() -> None:
    batches = np.stack([np.zeros((8, 1)), np.full((8, 1), 1e3), np.arange(8.0)[:, None]])
    moments = merged(batches)
    np.testing.assert_allclose(total(moments.mean), batches.mean(), rtol=1e-6)
    np.testing.assert_allclose(moments.variance, batches.var(), rtol=1e-5)


def test_the_first_batch_costs_no_digits_either() -> None:
    """The mean is accurate to 1e-4 of a deviation, which is 1e-10 of the mean."""
    samples = np.random.default_rng(6).normal(1e6, 1, (1, 1000, 1)).astype(np.float32)
    moments, exact = merged(samples), samples.astype(np.float64)
    np.testing.assert_allclose(total(moments.mean), exact.mean(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(moments.variance, exact.var(), rtol=1e-5)


def test_equal_samples_have_no_variance() -> None:
    moments = merged(np.full((3, 5, 1), 0.1))
    assert moments.variance == 0
    assert total(moments.mean) == np.float32(0.1)


def test_moments_of_no_samples() -> None:
    moments = no_moments((2,))
    assert moments.count.value == 0
    np.testing.assert_array_equal(moments.variance, [0, 0])


def test_16_bits_are_merged_in_float32() -> None:
    samples = np.random.default_rng(3).normal(3, 1, (5, 40, 2)).astype(jnp.bfloat16)
    moments = merged(samples, jnp.bfloat16)
    assert moments.mean.value.dtype == jnp.float32
    exact = samples.astype(np.float64).reshape(-1, 2)
    np.testing.assert_allclose(total(moments.mean), exact.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, exact.var(axis=0), rtol=1e-5)


def test_a_mesh_merges_the_batches_of_its_devices() -> None:
    batches = np.random.default_rng(4).normal(50, 2, (3, 16, 2)).astype(np.float32)
    on_two = sharded(merge, MESH, (WHOLE, FIRST), WHOLE)
    split, whole = no_moments((2,)), no_moments((2,))
    for batch in jnp.asarray(batches):
        split, whole = jax.jit(on_two)(split, batch), jax.jit(merge)(whole, batch)
    assert split.count.value == whole.count.value == 48
    np.testing.assert_allclose(total(split.mean), total(whole.mean), rtol=1e-6)
    np.testing.assert_allclose(split.variance, whole.variance, rtol=1e-5)


@pytest.mark.slow
def test_mapped_moments_equal_single_ones() -> None:
    batches = np.random.default_rng(5).normal(2, 1, (3, 16, 2)).astype(np.float32)
    mapped = jax.vmap(merge, (None, 0))(no_moments((2,)), jnp.asarray(batches))
    variances = jax.vmap(lambda moments: moments.variance)(mapped)
    for i, batch in enumerate(jnp.asarray(batches)):
        single = merge(no_moments((2,)), batch)
        np.testing.assert_allclose(mapped.mean.value[i], single.mean.value, rtol=1e-6)
        np.testing.assert_allclose(variances[i], single.variance, rtol=1e-6)
