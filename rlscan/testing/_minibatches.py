"""`check_minibatches`: which steps a minibatch is made of."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

import rlscan

from ._error import require

_T, _N, _M = 6, 8, 4


def check_minibatches(fn: Callable, *, recurrent: bool = False, key: Any = None) -> None:
    """Checks the minibatches of one epoch.

    - Each step of each environment is in one minibatch, once;
    - the leaves of a row stay together;
    - another key gives another order;
    - of a recurrent agent, a minibatch holds whole environments, their steps in the order of time.

    **Arguments:**

    - `fn`: `fn(batch, num_minibatches, key) -> minibatches`, of a dict of arrays `[T, N, …]`: with
        leaves `[M, B, …]`; or `[M, T, n, …]` if `recurrent`. A list of M dicts will do as well.
    - `recurrent`: whether the minibatches are those of a recurrent agent.
    - `key`: consumed. `rlscan.key(0)` if not given.

    **Raises:** `ConformanceError`.

    Source: Pleines et al., *Generalization, Mayhems and Limits in Recurrent Proximal Policy
    Optimization*, 2022, arXiv:2205.11104.
    """
    key = rlscan.key(0) if key is None else key
    number = np.arange(_T * _N).reshape(_T, _N)
    batch = {
        "advantage": jnp.asarray(number, jnp.float32),
        "observation": jnp.asarray(np.stack([number, -number], axis=-1), jnp.float32),
    }

    def shuffled(i: int) -> np.ndarray:
        given = fn(batch, _M, rlscan.key(i) if i else key)
        if isinstance(given, list | tuple):
            given = {name: jnp.stack([part[name] for part in given]) for name in batch}
        return _numbers(given, recurrent)

    one, other = shuffled(0), shuffled(1)
    everything = (np.sort(one.ravel()) == number.ravel()).all()
    edit = "Take a permutation, and split it"
    lost = sorted(set(number.ravel()) - set(one.ravel()))
    required = "each step must be in one minibatch, once"
    require(everything, required, f"{len(lost)} of {number.size} in none", edit)
    if recurrent:
        _check_sequences(one)
    edit = "Draw the order from the key, anew in every epoch"
    required = "another key must give another order"
    require((one != other).any(), required, "the same one", edit)


def _numbers(given: Any, recurrent: bool) -> np.ndarray:
    """The numbers of the steps, `[M, B]` or `[M, T, n]`."""
    number = np.asarray(given["advantage"]).astype(int)
    shape = (_M, _T, _N // _M) if recurrent else (_M, _T * _N // _M)
    edit = "Minibatches come first, and all are of one size"
    require(number.shape == shape, f"minibatches must be {shape}", number.shape, edit)
    observation = np.asarray(given["observation"]).astype(int)
    together = np.array_equal(observation, np.stack([number, -number], axis=-1))
    edit = "Index all leaves by the same rows, after the same reshape"
    required = "the observations of a minibatch must be those of its advantages"
    require(together, required, "others", edit)
    return number


def _check_sequences(number: np.ndarray) -> None:
    step, environment = np.divmod(number, _N)
    whole = (environment == environment[:, :1]).all()
    edit = "Take minibatches over environments, x[:, environments], and never over time"
    got = f"steps of the environments {sorted(set(environment[0, :, 0].tolist()))}"
    require(whole, "a column of a minibatch must be one environment", got, edit)
    in_order = (step == np.arange(_T)[:, None]).all()
    got = f"{step[0, :, 0].tolist()}"
    require(in_order, f"its steps must be 0 … {_T - 1} in their order", got, edit)
