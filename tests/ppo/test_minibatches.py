"""Random orders: every permutation is complete, and no number is favoured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlscan
from rlscan.ppo._minibatches import _rotated, random_order

ROTATED = [1536, 2048, 32 * 1024, 100 * 64]
SORTED = [1, 2, 97, 512, 1024, 2 * 1009]


@pytest.mark.parametrize("length", ROTATED + SORTED)
def test_every_number_comes_once(length: int) -> None:
    orders = jax.jit(jax.vmap(lambda key: random_order(key, length)))(
        jax.random.split(rlscan.key(0), 3)
    )
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(length), (3, 1)))
    if length > 2:
        assert (orders[0] != orders[1]).any() and (orders[0] != jnp.arange(length)).any()


@pytest.mark.parametrize("length, sorts", [(n, 0) for n in ROTATED] + [(n, 1) for n in SORTED[2:]])
def test_only_short_and_odd_lengths_are_sorted(length: int, sorts: int) -> None:
    text = str(jax.make_jaxpr(lambda key: random_order(key, length))(rlscan.key(0)))
    assert (" sort[" in text) == bool(sorts)


ORDERS = {
    "sorted": lambda key: random_order(key, 1024),
    "rotated": lambda key: _rotated(key, 32, 32),
}


@pytest.fixture(scope="module", params=ORDERS)
def minibatch_of(request: pytest.FixtureRequest) -> np.ndarray:
    """The minibatch, of 8, that each of 1,024 numbers falls into, for 4,096 orders."""
    keys = jax.random.split(rlscan.key(3), 4096)
    orders = np.asarray(jax.jit(jax.vmap(ORDERS[request.param]))(keys))
    places = np.argsort(orders, axis=1)
    return places // 128


def test_each_number_is_in_each_minibatch_equally_often(minibatch_of: np.ndarray) -> None:
    counts = np.stack([(minibatch_of == m).sum(axis=0) for m in range(8)])
    z = (counts - 4096 / 8) / np.sqrt(4096 * (1 / 8) * (7 / 8))
    assert np.abs(z).max() < 5.5  # the largest of 8,192
    assert 0.9 < z.std() < 1.1


@pytest.mark.parametrize("apart", [1, 2, 31, 32, 64, 33, 500, 992])
def test_any_two_numbers_meet_in_a_minibatch_equally_often(
    apart: int, minibatch_of: np.ndarray
) -> None:
    """This includes numbers that start in one row or column of the 32 × 32 grid."""
    first = np.arange(1024 - apart)
    meet = (minibatch_of[:, first] == minibatch_of[:, first + apart]).mean(axis=0)
    p = 127 / 1023
    z = (meet - p) / np.sqrt(p * (1 - p) / 4096)
    assert np.abs(z).max() < 5.5 and abs(z.mean()) < 0.5
    assert abs(z.std() - 1) < 0.2 + 3 / np.sqrt(2 * len(z))


def test_neighbours_are_separated(minibatch_of: np.ndarray) -> None:
    """The number of a row's 32 entries in a minibatch varies as it would by chance."""
    row = minibatch_of[:, :32]
    counts = np.stack([(row == m).sum(axis=1) for m in range(8)])
    # The distribution is hypergeometric: 32 draws from 1,024, of which 128 are in the minibatch.
    variance = 32 * (1 / 8) * (7 / 8) * (1024 - 32) / 1023
    assert abs(counts.var() / variance - 1) < 0.05
