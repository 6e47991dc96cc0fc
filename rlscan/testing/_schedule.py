"""`check_learning_rate_schedule`: what an annealed learning rate is counted in."""

from collections.abc import Callable

import numpy as np

from ._error import require_close


def check_learning_rate_schedule(make_schedule: Callable, *, tolerance: float = 0.01) -> None:
    """Checks that a learning rate falls linearly over the gradient steps, to 0 on the last.

    α (1 − k / (K − 1)) at gradient step k = 0 … K − 1, with K = updates × epochs × minibatches.

    **Arguments:**

    - `make_schedule`: `make_schedule(learning_rate, num_updates, num_epochs, num_minibatches) ->
        schedule`, and `schedule(k) -> rate` at gradient step k, of those that were applied.
    - `tolerance`: as a fraction of α. A rate that falls only from update to update is off by one
        part in `num_updates`, here 10: allow 0.11. One that reaches 0 after the last step, and not
        on it, is off by less than the default.

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
