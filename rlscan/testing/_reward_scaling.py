"""`check_reward_scaling`: rewards in units of the deviation of the discounted return."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from ._error import require_close

_NUM_STEPS, _GAMMA = 400, 0.9
_SMALL, _LARGE = 1.0, 5.0


def check_reward_scaling(fn: Callable, *, tolerance: float = 0.05) -> None:
    """Checks that rewards are divided by the standard deviation of the return so far.

    R ← γ R + r, the deviation is that of R over all steps, r / deviation is the result, and *then*
    R ← 0 if the episode ended, in either way. No mean is subtracted.

    Episodes of two steps that reward with 1 and 5 are played again and again: R is 1 and 1 γ + 5.
    Only the last quarter of the steps is looked at, so that statistics that move from step to step
    pass, as do those that move from block to block.

    **Arguments:**

    - `fn`: `fn(reward, terminated, truncated, *, gamma) -> scaled`, of `[T, N]` arrays; starts with
        the statistics of no step.
    - `tolerance`: relative. Wide, for the steps before the statistics settle.

    **Raises:** `ConformanceError`.

    Source: Engstrom et al., *Implementation Matters in Deep Policy Gradients*, 2020,
    arXiv:2005.12729, appendix A.2; the reset is that of Gymnasium issues 760 and 1507.
    """
    phase = np.add.outer(np.arange(_NUM_STEPS), [0, 1]) % 2  # the second environment is one ahead
    reward = np.where(phase == 1, _LARGE, _SMALL)
    returns = np.where(phase == 1, _GAMMA * _SMALL + _LARGE, _SMALL)
    wanted = (reward / returns.std())[-_NUM_STEPS // 4 :]
    ended, no = phase == 1, np.zeros_like(phase, bool)
    for name, ends in (("terminates", (ended, no)), ("is truncated", (no, ended))):
        arrays = jnp.asarray(reward, jnp.float32), *map(jnp.asarray, ends)
        got = np.asarray(fn(*arrays, gamma=_GAMMA))[-_NUM_STEPS // 4 :]
        what = f"the scaled reward where every second step {name}"
        edit = (
            "Move the statistics by R = γ R + r first, then set R to 0 where the episode ended: "
            "else its last reward is counted in the next one"
        )
        require_close(what, got, wanted, edit, tolerance=tolerance)
