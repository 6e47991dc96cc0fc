"""The returns of the last 100 episodes, against a list."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import probes
import pytest

import rlscan
from rlscan.ppo._recent_returns import add_returns, mean_return, no_returns

add = jax.jit(add_returns)


def test_the_last_100_are_those_of_a_list():
    """None, a few or more than 100 end in a rollout: in order of time, then of environments."""
    rng = np.random.default_rng(0)
    recent, finished = no_returns(), []
    assert np.isnan(mean_return(recent))
    for i, rate in enumerate((0.0, 0.02, 0.2, 0.0, 0.5, 0.1, 1.0, 0.02)):
        ended, returns = rng.random((16, 10)) < rate, rng.normal(size=(16, 10)).astype("float32")
        if i == 1:
            ended[-1, -1] = ended[0, 0] = True
        recent = add(recent, jnp.asarray(ended), jnp.asarray(returns))
        finished += returns[ended].tolist()
        last = finished[-100:][::-1]
        assert recent.count == len(last)
        np.testing.assert_array_equal(recent.values[: len(last)], np.float32(last))
        if last:
            np.testing.assert_allclose(mean_return(recent), np.mean(last), atol=1e-5)


def test_a_rollout_may_have_fewer_steps_than_there_is_room():
    recent = add(no_returns(), jnp.asarray([[True, False]]), jnp.asarray([[3.0, 5.0]]))
    recent = add(recent, jnp.asarray([[True, True]]), jnp.asarray([[7.0, 8.0]]))
    assert recent.values[:3].tolist() == [8.0, 7.0, 3.0] and mean_return(recent) == 6.0


CONFIG = rlscan.ppo.PPOConfig(num_envs=4, num_steps=8, num_epochs=1, num_minibatches=1)


def means(**settings: Any) -> np.ndarray:
    make = lambda *, key: probes.dropout_policy()  # noqa: E731
    settings = {"key": rlscan.key(0), "total_steps": 32 * 4, **settings}
    training = rlscan.train(make, probes.Wander(), CONFIG, **settings)
    return np.stack([metrics["return_mean_100"] for _, metrics in training])


@pytest.mark.slow
def test_devices_have_the_returns_of_all_environments():
    """Actions do not depend on the devices, and at a learning rate of 0 nor do the updates."""
    train = partial(means, optimizer=lambda rate: optax.sgd(0 * rate))
    alone = train()
    np.testing.assert_allclose(train(mesh=rlscan.make_mesh(2)), alone, rtol=1e-5)
    assert len(np.unique(alone)) == 4


@pytest.mark.slow
def test_each_run_has_its_own():
    keys = jax.random.split(rlscan.key(3), 2)
    both = means(key=keys)
    for i in range(2):
        np.testing.assert_allclose(means(key=keys[i])[0], both[0, i], rtol=1e-5)
    assert (both[:, 0] != both[:, 1]).all()
