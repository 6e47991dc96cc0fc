"""Random orders, without a sort where a sort would take a third of an update."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

_NUM_ROUNDS = 6
_FEWEST_ROWS = 32  # where fewer are rotated the order is less than random, and sorting is fast


def random_order(key: PRNGKeyArray, length: int) -> Int[Array, " length"]:
    """A random permutation of 0 … length − 1.

    The numbers are laid out as a grid of rows and columns, as square as can be; then each column
    is rotated by a random number of rows, each row by a random number of columns, and so on. That
    is an alternating Feistel network (Black & Rogaway, *Ciphers with Arbitrary Finite Domains*,
    2002) with tables for round functions: all elements move independently of one another but for
    those that share a row or a column, and these part in the next round. Where the grid would be
    narrow (a prime length, a short one), `jax.random.permutation` sorts. In PPO on 32,768 steps,
    four epochs of eight minibatches, sorting took 37 % of the update on two CPU cores.
    """
    num_rows = _rows_of_squarest_grid(length)
    if num_rows < _FEWEST_ROWS:
        return jax.random.permutation(key, length)
    num_columns = length // num_rows
    row, column = jnp.divmod(jnp.arange(length), num_columns)
    for round_key in jax.random.split(key, _NUM_ROUNDS // 2):
        row_key, column_key = jax.random.split(round_key)
        row = (row + jax.random.randint(row_key, (num_columns,), 0, num_rows)[column]) % num_rows
        shift = jax.random.randint(column_key, (num_rows,), 0, num_columns)
        column = (column + shift[row]) % num_columns
    return row * num_columns + column


def _rows_of_squarest_grid(length: int) -> int:
    """The greatest divisor up to the square root."""
    return next(d for d in range(math.isqrt(length), 0, -1) if length % d == 0)
