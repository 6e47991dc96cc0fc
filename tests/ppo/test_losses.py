"""PPO's losses against float64 references and identities of their gradients."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlscan import clipped_policy_loss, clipped_value_loss, normalize
from rlscan.ppo._losses import ratio_diagnostics

CLIP = 0.2


def samples(seed=0, shape=(6, 8)):
    """Draw log-ratios on all sides of the clip, and advantages of both signs."""
    rng = np.random.default_rng(seed)
    return (rng.normal(scale=0.4, size=shape), rng.normal(size=shape))


def f32(*arrays) -> Any:
    return tuple(jnp.asarray(x, jnp.float32) for x in arrays)


def policy_loss(log_ratio, advantage):
    """Compute Schulman et al. 2017, eq. 7, case by case: a gain beyond the clip does not count."""
    total = 0.0
    for r, a in zip(np.exp(log_ratio).ravel(), advantage.ravel(), strict=True):
        if a >= 0:
            total += a * (r if r <= 1 + CLIP else 1 + CLIP)
        else:
            total += a * (r if r >= 1 - CLIP else 1 - CLIP)
    return -total / advantage.size


@pytest.mark.parametrize("seed", range(3))
def test_policy_loss(seed):
    log_ratio, advantage = samples(seed)
    expected = policy_loss(log_ratio, advantage)
    unclipped = -(np.exp(log_ratio) * advantage).mean()
    assert clipped_policy_loss(*f32(log_ratio, advantage), clip_range=CLIP) == pytest.approx(
        expected, abs=1e-6
    )
    assert expected > unclipped + 1e-3  # it is pessimistic, and the data reaches the clip


def test_surrogate_at_ratio_1_is_the_policy_gradient():
    """∇ −mean(clip…) = −mean(Â ∇ log π) if the policy is the one that acted."""
    rng = np.random.default_rng(0)
    observation, logits = rng.normal(size=(32, 3)), rng.normal(size=(3, 4))
    action, advantage = rng.integers(4, size=32), rng.normal(size=32)

    def surrogate(weight):
        log_policy = jax.nn.log_softmax(jnp.asarray(observation, jnp.float32) @ weight)
        log_prob = log_policy[jnp.arange(32), action]
        log_ratio = log_prob - jax.lax.stop_gradient(log_prob)
        return clipped_policy_loss(log_ratio, jnp.asarray(advantage, jnp.float32), CLIP)

    gradient = jax.grad(surrogate)(jnp.asarray(logits, jnp.float32))
    expected = np.zeros((3, 4))
    for s, a, advantage_of_a in zip(observation, action, advantage, strict=True):
        probability = np.exp(s @ logits) / np.exp(s @ logits).sum()
        expected -= advantage_of_a * np.outer(s, np.eye(4)[a] - probability) / 32
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_a_clipped_gain_has_no_gradient():
    """Outside the clip, the gradient is 0 on the side of gains and unchanged on the other."""
    log_ratio, advantage = f32([0.5, 0.5, -0.5, -0.5, 0.1, 0.1], [1, -1, 1, -1, 1, -1])
    gradient = jax.grad(clipped_policy_loss)(log_ratio, advantage, CLIP)
    whole = -np.exp(log_ratio) * advantage / 6
    kept = np.array([False, True, True, False, True, True])
    np.testing.assert_allclose(gradient, np.where(kept, whole, 0), atol=1e-6)
    assert (np.asarray(gradient)[~kept] == 0).all()


def values(seed=0):
    rng = np.random.default_rng(seed)
    old_value = rng.normal(size=64)
    return old_value + rng.normal(scale=0.5, size=64), old_value, rng.normal(size=64)


def value_loss(value, old_value, target, clip_range):
    total = 0.0
    for v, old, goal in zip(value, old_value, target, strict=True):
        clipped = min(max(v, old - clip_range), old + clip_range)
        total += max((v - goal) ** 2, (clipped - goal) ** 2)
    return total / 2 / len(value)


@pytest.mark.parametrize("clip_range", [0.05, 0.3, math.inf])
def test_value_loss(clip_range):
    expected = value_loss(*values(), clip_range)
    assert clipped_value_loss(*f32(*values()), clip_range=clip_range) == pytest.approx(
        expected, rel=1e-5
    )


def test_clipping_never_makes_the_value_loss_smaller():
    value, old_value, target = f32(*values())
    plain = float(0.5 * ((value - target) ** 2).mean())
    assert clipped_value_loss(value, old_value, target, math.inf) == pytest.approx(plain, rel=1e-6)
    one_by_one = jax.vmap(partial(clipped_value_loss, clip_range=0.1))(value, old_value, target)
    halves = np.asarray(0.5 * (value - target) ** 2)
    assert (one_by_one >= halves - 1e-6).all()
    assert (one_by_one > halves + 1e-3).sum() > 5  # with min it would be the reverse


def test_gradient_of_an_unclipped_value_loss_is_finite():
    """A clip range of ∞ must not give NaN in the backward pass."""
    value, old_value, target = f32(*values())
    gradient = jax.grad(clipped_value_loss)(value, old_value, target, jnp.asarray(math.inf))
    np.testing.assert_allclose(gradient, (value - target) / 64, atol=1e-7)


def test_normalize():
    _, advantage = samples()
    advantage = 3 * advantage + 7
    expected = (advantage - advantage.mean()) / advantage.std()
    (given,) = f32(advantage)
    np.testing.assert_allclose(normalize(given), expected, atol=1e-5)
    assert (normalize(jnp.full(4, 2.0)) == 0).all()
    # The computed means of these differ from the number in the last digit.
    for number, size in ((1000.1, 64), (3.3, 128), (0.1, 7)):
        assert (normalize(jnp.full(size, number)) == 0).all()


def test_ratio_diagnostics():
    log_ratio, _ = samples()
    ratio = np.exp(log_ratio)
    diagnostics = ratio_diagnostics(*f32(log_ratio), clip_range=CLIP)
    outside = (ratio < 1 - CLIP) | (ratio > 1 + CLIP)
    assert diagnostics["kl_k1"] == pytest.approx(-log_ratio.mean(), abs=1e-6)
    assert diagnostics["approx_kl"] == pytest.approx((ratio - 1 - log_ratio).mean(), rel=1e-5)
    assert diagnostics["clip_fraction"] == pytest.approx(outside.mean(), abs=1e-6)
    assert 0.2 < outside.mean() < 0.8


def test_small_divergences_keep_their_digits():
    """The result is ε²/2 at log r = ±ε. In float32, (r − 1) − log r would lose it."""
    log_ratio = np.array([1e-3, -1e-3] * 8)
    expected = (np.expm1(log_ratio) - log_ratio).mean()
    assert ratio_diagnostics(*f32(log_ratio), clip_range=CLIP)["approx_kl"] == pytest.approx(
        expected, rel=1e-3
    )


def test_k3_estimates_the_divergence():
    """Samples of the old policy estimate KL(old, new) of two categorical policies."""
    rng = np.random.default_rng(0)
    old, new = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.25, 0.35])
    action = rng.choice(3, size=20_000, p=old)
    (log_ratio,) = f32(np.log(new / old)[action])
    diagnostics = ratio_diagnostics(log_ratio, CLIP)
    divergence = (old * np.log(old / new)).sum()
    assert diagnostics["approx_kl"] == pytest.approx(divergence, rel=0.05)
    assert diagnostics["kl_k1"] == pytest.approx(divergence, rel=0.15)
