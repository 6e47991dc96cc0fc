"""`check_gradient_clip`: gradients bounded by their global norm."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._error import require_close


def check_gradient_clip(fn: Callable, *, tolerance: float = 1e-5) -> None:
    """Checks that gradients are clipped by their global norm.

    g · min(1, m / ‖g‖), with ‖g‖² the sum over all numbers of all leaves: it keeps the direction,
    leaves a gradient within the bound as it is, and one of 0 at 0.

    **Arguments:**

    - `fn`: `fn(grads, max_norm) -> grads`, of a dict of arrays and a number. For optax:
        `lambda grads, max_norm: optax.clip_by_global_norm(max_norm).update(grads, None)[0]`.
    - `tolerance`: relative where a number is beyond 1.

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
