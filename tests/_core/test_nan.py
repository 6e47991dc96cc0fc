"""NaN stands for what there is none of, unless JAX is told to raise at it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

import rlscan
from rlscan._core.nan import nan_or
from rlscan._rollout.gae import explained_variance
from rlscan.ppo._metrics import episode_metrics, episodes_of, flag_divergence
from rlscan.ppo._recent_returns import mean_return, no_returns


def test_nan_or():
    assert math.isnan(nan_or(0.0))
    with jax.debug_nans(True):
        assert (nan_or(0.0), nan_or(-math.inf)) == (0.0, -math.inf)


@pytest.mark.slow
def test_an_update_without_episodes_or_variance_passes_debug_nans():
    env, policy = (
        probes.Wander(limit=99, time_limit=None, end_above=math.inf),
        probes.dropout_policy(),
    )

    def metrics(key):
        state = rlscan.init_rollout(policy, env, num_envs=2, key=key)
        _, trajectory = rlscan.rollout(policy, env, state, 2)
        flat = explained_variance(jnp.zeros(4), jnp.ones(4))
        found = {
            **episode_metrics(*episodes_of(trajectory)),
            "return_mean_100": mean_return(no_returns()),
            "flat": flat,
            "num_gradient_steps": jnp.asarray(1),
        }
        return flag_divergence(found, flat != flat, jnp.asarray(False))

    with jax.debug_nans(True):
        strict = jax.jit(lambda key: metrics(key))(rlscan.key(0))
    usual = jax.jit(lambda key: metrics(key))(rlscan.key(0))
    for name in ("episode_return", "episode_length", "return_mean_100", "flat"):
        assert strict[name] == 0 and np.isnan(usual[name])
    assert strict["num_episodes"] == usual["num_episodes"] == 0


def test_a_frozen_run_passes_debug_nans():
    yes, metrics = jnp.asarray(True), {"loss": jnp.ones(()), "num_gradient_steps": jnp.asarray(3)}
    blank = jax.jit(lambda metrics: flag_divergence(metrics, yes, yes))
    with jax.debug_nans(True):
        assert blank(metrics) == {"loss": 0, "num_gradient_steps": 0, "diverged": 1}
