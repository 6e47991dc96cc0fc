"""`check_value_loss`: PPO's clipped value loss."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from ._error import require_close


def check_value_loss(fn: Callable, *, tolerance: float = 1e-5) -> None:
    """Checks PPO's clipped value loss, up to a constant factor (½ or 1).

    mean max((V − R)², (clip(V, V_old ± ε) − R)²): so it is never less than the unclipped loss, and
    an infinite ε leaves mean (V − R)².

    **Arguments:**

    - `fn`: `fn(value, old_value, target, clip_range) -> loss`, of `[B]` arrays and a number, as
        `rlscan.clipped_value_loss`.
    - `tolerance`: relative where the loss is beyond 1.

    **Raises:** `ConformanceError`.

    Source: Huang et al., *The 37 Implementation Details of Proximal Policy Optimization*, 2022,
    detail 9.
    """
    rng = np.random.default_rng(0)
    value, old_value, target = rng.normal(size=(3, 64))
    arrays = [jnp.asarray(x, jnp.float32) for x in (value, old_value, target)]
    squares = (value - target) ** 2
    factor = float(fn(*arrays, np.inf)) / squares.mean()
    edit = "It is the mean of (V − R)², times a constant, where nothing is clipped"
    for scale in (0.5, 1.0):  # then the loss is quadratic, and not, say, a Huber loss
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
