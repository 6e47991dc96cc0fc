"""Lever: random permutations without a sort, which would take much of an update on a CPU.

`python -m benchmarks --only levers` compares them with `jax.random.permutation`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

_NUM_ROUNDS = 6
_FEWEST_ROWS = 32  # with fewer rows the order is visibly not random
_FEW = 1024  # up to this length sorting is fastest


def random_order(key: PRNGKeyArray, length: int) -> Int[Array, " length"]:
    """Draw a random permutation of 0 … length − 1.

    Short ones are sorted; long ones rotate the rows and columns of a grid. Lengths without a
    suitable grid, such as primes, fall back to `jax.random.permutation`.
    """
    if length <= _FEW:
        return _sorted(key, length)
    num_rows = _rows_of_squarest_grid(length)
    if num_rows < _FEWEST_ROWS:
        return jax.random.permutation(key, length)
    return _rotated(key, num_rows, length // num_rows)


def _sorted(key: PRNGKeyArray, length: int) -> Int[Array, " length"]:
    """Sort random words that carry the numbers in their last bits, because XLA sorts pairs slowly.

    Of the 22 or more random bits, two words agree for one pair in four million.
    """
    mask = np.uint32(2 ** (length - 1).bit_length() - 1)
    words = jax.random.bits(key, (length,)) & ~mask | jnp.arange(length, dtype=jnp.uint32)
    return (jnp.sort(words) & mask).astype(jnp.int32)


def _rotated(key: PRNGKeyArray, num_rows: int, num_columns: int) -> Int[Array, " length"]:
    """Rotate each column of a grid by a random number of rows, then each row, and so on.

    An alternating Feistel network (Black & Rogaway, *Ciphers with Arbitrary Finite Domains*, 2002)
    with tables for round functions: two numbers move together only while they share a row or a
    column, and the next round separates them.
    """
    row, column = jnp.divmod(jnp.arange(num_rows * num_columns), num_columns)
    for round_key in jax.random.split(key, _NUM_ROUNDS // 2):
        row_key, column_key = jax.random.split(round_key)
        row = (row + jax.random.randint(row_key, (num_columns,), 0, num_rows)[column]) % num_rows
        shift = jax.random.randint(column_key, (num_rows,), 0, num_columns)
        column = (column + shift[row]) % num_columns
    return row * num_columns + column


def _rows_of_squarest_grid(length: int) -> int:
    """Find the greatest divisor up to the square root."""
    return next(d for d in range(math.isqrt(length), 0, -1) if length % d == 0)
