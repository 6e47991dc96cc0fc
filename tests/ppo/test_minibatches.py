"""Random orders: every permutation is complete, and no number, pair or block is favoured."""

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlscan
from rlscan.ppo._minibatches import _rotated, _walk, random_order

ROTATED = [1025, 2048, 32 * 1024]
SORTED = [1, 2, 97, 512, 1024]


@pytest.mark.parametrize("length", ROTATED + SORTED)
def test_every_number_comes_once(length: int) -> None:
    orders = jax.jit(jax.vmap(lambda key: random_order(key, length)))(
        jax.random.split(rlscan.key(0), 3)
    )
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(length), (3, 1)))
    if length > 2:
        assert (orders[0] != orders[1]).any() and (orders[0] != jnp.arange(length)).any()


@pytest.mark.parametrize("length, sorts", [(n, 0) for n in ROTATED] + [(n, 1) for n in SORTED[2:]])
def test_only_short_orders_are_sorted(length: int, sorts: int) -> None:
    text = str(jax.make_jaxpr(lambda key: random_order(key, length))(rlscan.key(0)))
    assert (" sort[" in text) == bool(sorts)


@pytest.mark.parametrize(
    "outside",
    [
        [5, 6, 7, 8, 1],  # 0 → 4 → 5 → 6 → 7 → 8 → 1: through every number outside
        [6, 5, 7, 1, 4],  # 0 → 4 → 6 → 7 → 1, and 5 goes round in a circle
    ],
)
def test_a_walk_ends_at_the_first_number_inside(outside: list[int]) -> None:
    assert _walk(jnp.array([4, 2, 3, 0]), jnp.array(outside)).tolist() == [1, 2, 3, 0]


@pytest.mark.slow
@pytest.mark.parametrize("length", [4, 7])  # 2 × 2 cells, and 3 × 3 of which two are too many
def test_in_a_small_grid_each_number_is_at_each_place_equally_often(length: int) -> None:
    n = 20_000
    keys = jax.random.split(rlscan.key(1), n)
    orders = jax.jit(jax.vmap(lambda key: _rotated(key, length)))(keys)
    counts = jax.nn.one_hot(orders, length).sum(0)
    z = (counts - n / length) / math.sqrt(n / length * (1 - 1 / length))
    assert jnp.abs(z).max() < 5


NUM_BLOCKS, NUM_NEAR = 8, 16
ORDERS = {"sorted": random_order, "rotated": _rotated}
CASES = [
    ("sorted", 1024, 4000),
    ("rotated", 1024, 4000),
    ("rotated", 1999, 200),  # a prime
    *(
        pytest.param(("rotated", length, 4000), marks=pytest.mark.slow)
        for length in (1025, 2048, 4096, 32 * 257, 10_000, 32 * 1024, 65_537, 2**17, 32 * 4099)
    ),
]


@cache
def drawn(kind: str, length: int) -> Callable:
    return jax.jit(jax.vmap(lambda key: ORDERS[kind](key, length)))


def chunks_of(kind: str, length: int, num_orders: int) -> Iterator[np.ndarray]:
    for keys in jax.random.split(rlscan.key(2), (num_orders // 50, 50)):
        yield np.asarray(drawn(kind, length)(keys))


class Statistics(NamedTuple):
    length: int
    num_orders: int
    near: int  # how often i and i + d are d places apart, for d up to NUM_NEAR
    followed: dict[tuple[int, int], int]  # how often x + `up` comes `at` places after x
    blocks: np.ndarray  # [orders, NUM_BLOCKS, NUM_BLOCKS]: numbers of each block in each block
    row: np.ndarray  # [orders, NUM_BLOCKS]: numbers of one row of the grid in each block


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "{} {} x {}".format(*case))
def statistics(request: pytest.FixtureRequest) -> Statistics:
    """What neighbours and blocks became, in all orders of a length."""
    _, length, num_orders = request.param
    parts = [statistics_of(orders) for orders in chunks_of(*request.param)]
    near, followed, blocks, row = zip(*parts, strict=True)
    totals = {pair: sum(part[pair] for part in followed) for pair in followed[0]}
    return Statistics(
        length, num_orders, sum(near), totals, np.concatenate(blocks), np.concatenate(row)
    )


def statistics_of(orders: np.ndarray) -> tuple:
    length = orders.shape[1]

    def kept(at: int, up: int) -> int:
        return (orders[:, at:] == orders[:, :-at] + up).sum()

    divisor = next(d for d in range(math.isqrt(length), 0, -1) if length % d == 0)
    steps = {1, row_length(length), length // divisor} - {length}  # to the neighbours in a grid
    block = length // NUM_BLOCKS
    places = orders[:, : block * NUM_BLOCKS].reshape(len(orders), NUM_BLOCKS, block)
    blocks = [(places // block == b).sum(axis=2) for b in range(NUM_BLOCKS)]
    row = (places // row_length(length) == 3).sum(axis=2)
    near = sum(kept(d, d) for d in range(1, NUM_NEAR + 1))
    return near, {(i, j): kept(i, j) for i in steps for j in steps}, np.stack(blocks, 1), row


def row_length(length: int) -> int:
    return -(-length // (math.isqrt(length - 1) + 1))


def test_neighbours_stay_together_as_often_as_by_chance(statistics: Statistics) -> None:
    """In a thin grid, or with too few rotations, numbers of a row or column move together."""
    n, num_orders = statistics.length, statistics.num_orders

    def expected(at: int, up: int) -> float:
        return num_orders * (n - at) * (n - up) / (n * (n - 1))

    for (at, up), count in statistics.followed.items():
        assert abs(count - expected(at, up)) < 5 * math.sqrt(expected(at, up)), (at, up)
    total = sum(expected(d, d) for d in range(1, NUM_NEAR + 1))
    assert abs(statistics.near - total) < 5 * math.sqrt(total)


def test_blocks_are_spread_as_by_chance(statistics: Statistics) -> None:
    """Numbers of a block, or of a grid's row, fall into blocks by the hypergeometric law."""
    n, num_orders, block = statistics.length, statistics.num_orders, statistics.length // NUM_BLOCKS
    for counts, size in ((statistics.blocks, block), (statistics.row, row_length(n))):
        mean = block * size / n
        variance = mean * (1 - size / n) * (n - block) / (n - 1)
        z = (counts.mean(axis=0) - mean) / math.sqrt(variance / num_orders)
        assert np.abs(z).max() < 5
        spread = ((counts - mean) ** 2).mean() / variance
        assert abs(spread - 1) < 5 * math.sqrt(2 / num_orders / (NUM_BLOCKS - 1))


@pytest.fixture(scope="module", params=ORDERS)
def minibatch_of(request: pytest.FixtureRequest) -> np.ndarray:
    """The minibatch, of 8, that each of 1,024 numbers falls into, for 4,000 orders."""
    orders = np.concatenate(list(chunks_of(request.param, 1024, 4000)))
    return np.argsort(orders, axis=1) // 128


def test_each_number_is_in_each_minibatch_equally_often(minibatch_of: np.ndarray) -> None:
    counts = np.stack([(minibatch_of == m).sum(axis=0) for m in range(8)])
    z = (counts - 4000 / 8) / np.sqrt(4000 * (1 / 8) * (7 / 8))
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
    z = (meet - p) / np.sqrt(p * (1 - p) / 4000)
    assert np.abs(z).max() < 5.5 and abs(z.mean()) < 0.5
    assert abs(z.std() - 1) < 0.2 + 3 / np.sqrt(2 * len(z))


def test_neighbours_are_separated(minibatch_of: np.ndarray) -> None:
    """The number of a row's 32 entries in a minibatch varies as it would by chance."""
    row = minibatch_of[:, :32]
    counts = np.stack([(row == m).sum(axis=1) for m in range(8)])
    # The distribution is hypergeometric: 32 draws from 1,024, of which 128 are in the minibatch.
    variance = 32 * (1 / 8) * (7 / 8) * (1024 - 32) / 1023
    assert abs(counts.var() / variance - 1) < 0.05
