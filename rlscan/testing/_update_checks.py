"""Checks of the parts of an update: losses, gradient steps and minibatches."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rlscan

from ._conformance import require, require_close


def check_value_loss(fn: Callable, *, tolerance: float = 1e-5) -> None:
    """Check PPO's clipped value loss, up to a constant factor (½ or 1).

    It is mean max((V − R)², (clip(V, V_old ± ε) − R)²). It is therefore never less than the
    unclipped loss, and an infinite ε leaves mean (V − R)².

    **Arguments:**

    - `fn`: `fn(value, old_value, target, clip_range) -> loss`, for `[B]` arrays and a number, as
        `rlscan.ppo.clipped_value_loss`.
    - `tolerance`: absolute up to a loss of 1, relative beyond.

    **Raises:** `ConformanceError`.

    Source: Huang et al., *The 37 Implementation Details of Proximal Policy Optimization*, 2022,
    detail 9.
    """
    rng = np.random.default_rng(0)
    value, old_value, target = rng.normal(size=(3, 64))
    arrays = [jnp.asarray(x, jnp.float32) for x in (value, old_value, target)]
    squares = (value - target) ** 2
    factor = float(fn(*arrays, np.inf)) / squares.mean()
    edit = "Without clipping it is the mean of (V − R)², times a constant"
    for scale in (0.5, 1.0):  # tells a square from, say, a Huber loss
        scaled = [scale * x for x in arrays]
        wanted = factor * scale**2 * squares.mean()
        name = "the unclipped value loss"
        require_close(name, fn(*scaled, np.inf), wanted, edit, tolerance=tolerance)
    edit = "It is the larger of the two squares, by max: clipping must not make the loss smaller"
    for clip_range in (0.05, 0.2, 1.0):
        near = old_value + np.clip(value - old_value, -clip_range, clip_range)
        wanted = factor * np.maximum(squares, (near - target) ** 2).mean()
        name = f"the value loss with clip_range = {clip_range}"
        require_close(name, fn(*arrays, clip_range), wanted, edit, tolerance=tolerance)


def check_gradient_clip(fn: Callable, *, tolerance: float = 1e-5) -> None:
    """Check that gradients are clipped by their global norm.

    The result is g · min(1, m / ‖g‖), with ‖g‖² the sum over all entries of all leaves. It keeps
    the direction, leaves a gradient within the bound unchanged, and leaves 0 at 0.

    **Arguments:**

    - `fn`: `fn(grads, max_norm) -> grads`, for a dict of arrays and a number. For optax:
        `lambda grads, max_norm: optax.clip_by_global_norm(max_norm).update(grads, None)[0]`.
    - `tolerance`: absolute up to 1, relative beyond.

    **Raises:** `ConformanceError`.

    Source: Pascanu et al., *On the Difficulty of Training Recurrent Neural Networks*, 2013,
    arXiv:1211.5063, algorithm 1.
    """
    rng = np.random.default_rng(0)
    grads = {"weight": rng.normal(size=(3, 4)), "bias": 0.1 * rng.normal(size=(4,))}
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    as_given = jax.tree.map(partial(jnp.asarray, dtype=jnp.float32), grads)
    edit = "Scale all leaves by one number, min(1, max_norm / global norm)"

    def check(name: str, given: Any, max_norm: float, factor: float) -> None:
        clipped = fn(given, max_norm)
        for leaf, g in given.items():
            what, wanted = f"{leaf} of {name}", factor * np.asarray(g, float)
            require_close(what, clipped[leaf], wanted, edit, tolerance=tolerance)

    check("a gradient beyond the bound", as_given, norm / 4, 0.25)
    check("a gradient within the bound", as_given, 2 * norm, 1.0)
    check("a gradient of 0", jax.tree.map(jnp.zeros_like, as_given), 1.0, 0.0)


def check_learning_rate_schedule(make_schedule: Callable, *, tolerance: float = 0.01) -> None:
    """Check that a learning rate falls linearly over the gradient steps, to 0 at the last.

    It is α (1 − k / (K − 1)) at gradient step k = 0 … K − 1, with
    K = updates × epochs × minibatches.

    **Arguments:**

    - `make_schedule`: `make_schedule(learning_rate, num_updates, num_epochs, num_minibatches) ->
        schedule`, and `schedule(k) -> rate` is the rate applied at gradient step k.
    - `tolerance`: as a fraction of α. A rate that changes only once per update is off by one part
        in `num_updates`, here 10: allow 0.11. A rate that reaches 0 one step after the last is off
        by less than the default.

    **Raises:** `ConformanceError`.

    Source: Huang et al., *The 37 Implementation Details of Proximal Policy Optimization*, 2022,
    detail 4.
    """
    for shape in ((10, 4, 4), (10, 1, 16)):
        rate, num_steps = 0.25, int(np.prod(shape))
        schedule = make_schedule(rate, *shape)
        for k in np.linspace(0, num_steps - 1, 12).astype(int):
            got = float(schedule(int(k))) / rate
            name = (
                f"the share of the learning rate at gradient step {k} of {num_steps} "
                "(updates, epochs, minibatches: {}, {}, {})".format(*shape)
            )
            edit = "Count gradient steps: one for each minibatch of each epoch of each update"
            require_close(name, got, 1 - k / (num_steps - 1), edit, tolerance=tolerance)


def check_ratio(first_log_ratios: Callable, *, tolerance: float = 1e-5, key: Any = None) -> None:
    """Check that an update begins with the policy that acted.

    Before the first gradient step of an update, log π(a | s) − log π_old(a | s) is 0 up to
    rounding. It is not 0 with other dropout masks, other statistics of a normaliser, or other
    actions than those recorded. Every entry is compared, because their mean may be 0 by chance.

    **Arguments:**

    - `first_log_ratios`: `first_log_ratios(key) -> [U, …]`, the log-ratios of the first minibatch
        of each of U ≥ 2 updates. A policy that has just been initialised gives nearly the same
        output with any mask: let it learn something before the later updates.
    - `tolerance`: absolute; 1e-5 for discrete actions, 1e-4 for Gaussians.
    - `key`: consumed. Defaults to `rlscan.key(0)`.

    **Raises:** `ConformanceError`.

    Source: Hausknecht & Wagener, 2022, arXiv:2202.11818.
    """
    got = np.asarray(first_log_ratios(rlscan.key(0) if key is None else key), float)
    enough = got.ndim >= 1 and len(got) >= 2
    edit = "Return those of several updates, [U, …]"
    require(enough, "log-ratios of at least two updates", f"shape {got.shape}", edit)
    for update, log_ratio in enumerate(got):
        name = f"the log-ratio before the first gradient step of update {update + 1}"
        edit = (
            "Replay the recorded keys and actions, and keep the statistics of normalisers fixed "
            "from the first step of the rollout to the last epoch"
        )
        require_close(name, log_ratio, np.zeros_like(log_ratio), edit, tolerance=tolerance)


# Minibatches.

_T, _N, _M = 6, 8, 4


def check_minibatches(fn: Callable, *, recurrent: bool = False, key: Any = None) -> None:
    """Check the minibatches of one epoch.

    - Each step of each environment is in exactly one minibatch;
    - the leaves of a row stay together;
    - another key gives another order;
    - a minibatch of a recurrent agent holds whole environments, with their steps in order.

    **Arguments:**

    - `fn`: `fn(batch, num_minibatches, key) -> minibatches`. `batch` is a dict of arrays
        `[T, N, …]`; the result has leaves `[M, B, …]`, or `[M, T, n, …]` if `recurrent`, or is a
        list of M dicts.
    - `recurrent`: whether the minibatches are those of a recurrent agent.
    - `key`: consumed. Defaults to `rlscan.key(0)`.

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
    required = "each step must be in exactly one minibatch"
    require(everything, required, f"{len(lost)} of {number.size} in none", edit)
    if recurrent:
        _check_sequences(one)
    edit = "Draw a new order from the key in every epoch"
    required = "another key must give another order"
    require((one != other).any(), required, "the same one", edit)


def _numbers(given: Any, recurrent: bool) -> np.ndarray:
    """The numbers of the steps, `[M, B]` or `[M, T, n]`."""
    number = np.asarray(given["advantage"]).astype(int)
    shape = (_M, _T, _N // _M) if recurrent else (_M, _T * _N // _M)
    edit = "Put the axis of minibatches first, and make all of them the same size"
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
    edit = "Split the environments into minibatches, x[:, environments], and never the time axis"
    got = f"steps of the environments {sorted(set(environment[0, :, 0].tolist()))}"
    require(whole, "a column of a minibatch must be one environment", got, edit)
    in_order = (step == np.arange(_T)[:, None]).all()
    got = f"{step[0, :, 0].tolist()}"
    require(in_order, f"its steps must be 0 … {_T - 1} in their order", got, edit)
