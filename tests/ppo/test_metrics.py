import numpy as np
import pytest

from rlscan.ppo._metrics import until_diverged


@pytest.mark.parametrize(
    "diverged, length",
    [
        ([0, 0, 0], 3),
        ([0, 1, 1], 2),  # the update that diverged is kept
        ([1, 1, 1], 1),
        ([[0, 1, 1], [0, 0, 0]], 3),  # one run goes on
        ([[0, 1, 1], [0, 0, 1]], 3),
        ([[0, 1, 1], [1, 1, 1]], 2),
    ],
)
def test_metrics_end_with_the_update_in_which_the_last_run_diverged(diverged, length):
    diverged = np.asarray(diverged)
    loss = np.arange(diverged.size).reshape(diverged.shape)
    cut = until_diverged({"diverged": diverged, "loss": loss})
    np.testing.assert_array_equal(cut["diverged"], diverged[..., :length])
    np.testing.assert_array_equal(cut["loss"], loss[..., :length])
