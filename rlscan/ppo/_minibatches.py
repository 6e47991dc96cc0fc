"""Lever: random permutations without a sort, which would take much of an update on a CPU.

`python -m benchmarks --only levers` compares them with `jax.random.permutation`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, PRNGKeyArray

_NUM_ROUNDS = 4
_FEW = 1024  # up to this length sorting is fastest


def random_order(key: PRNGKeyArray, length: int) -> Int[Array, " length"]:
    """Draw a random permutation of 0 … length − 1: short ones by sorting, long ones on a grid."""
    return _sorted(key, length) if length <= _FEW else _rotated(key, length)


def _sorted(key: PRNGKeyArray, length: int) -> Int[Array, " length"]:
    """Sort random words that carry the numbers in their last bits, because XLA sorts pairs slowly.

    Of the 22 or more random bits, two words agree for one pair in four million.
    """
    mask = np.uint32(2 ** (length - 1).bit_length() - 1)
    words = jax.random.bits(key, (length,)) & ~mask | jnp.arange(length, dtype=jnp.uint32)
    return (jnp.sort(words) & mask).astype(jnp.int32)


def _rotated(key: PRNGKeyArray, length: int) -> Int[Array, " length"]:
    """Rotate each column of a square grid by a random number of rows, then each row, and so on.

    An alternating Feistel network (Black & Rogaway, *Ciphers with Arbitrary Finite Domains*, 2002)
    with tables for round functions: two numbers move together only while they share a row or a
    column. In a square grid of R rows neighbours stay together with a probability of R⁻⁴, beside
    the R⁻² of chance; in a thin grid they would meet too often.

    The grid may have a few cells too many. A number that is sent to one of these goes on from
    there, like the paper's cycle walk, until it is in a cell below `length`.
    """
    num_rows = math.isqrt(length - 1) + 1
    num_columns = -(-length // num_rows)
    row_key, column_key = jax.random.split(key)
    up = jax.random.randint(row_key, (_NUM_ROUNDS, num_columns), 0, num_rows, jnp.int32)
    along = jax.random.randint(column_key, (_NUM_ROUNDS, num_rows), 0, num_columns, jnp.int32)
    cell = _rotate(jnp.arange(num_rows * num_columns, dtype=jnp.int32), up, along)
    return _walk(cell[:length], cell[length:])


def _rotate(
    number: Int[Array, " n"], up: Int[Array, "rounds columns"], along: Int[Array, "rounds rows"]
) -> Int[Array, " n"]:
    """Send each number to a cell: `up` moves a column's numbers, and `along` those of a row."""
    num_rows, num_columns = along.shape[1], up.shape[1]
    row, column = jnp.divmod(number, num_columns)
    for i in range(_NUM_ROUNDS):
        row = _wrap(row + up[i][column], num_rows)
        column = _wrap(column + along[i][row], num_columns)
    return row * num_columns + column


def _wrap(index: Int[Array, " n"], size: int) -> Int[Array, " n"]:
    return jnp.where(index < size, index, index - size)  # less work than a remainder


def _walk(inside: Int[Array, " length"], outside: Int[Array, " m"]) -> Int[Array, " length"]:
    """Follow a permutation of length + m numbers from each one, until it is below `length`.

    Equally likely permutations of all numbers become equally likely ones of those below `length`.
    """
    length, m = len(inside), len(outside)
    if m == 0:
        return inside

    def follow(number: Int[Array, " n"], outside: Int[Array, " m"]) -> Int[Array, " n"]:
        return jnp.where(number < length, number, outside[jnp.maximum(number - length, 0)])

    # Each pass doubles the steps made, because it follows the results of the last one.
    twice = lambda _, outside: follow(outside, outside)  # noqa: E731
    return follow(inside, lax.fori_loop(0, (m - 1).bit_length(), twice, outside))
