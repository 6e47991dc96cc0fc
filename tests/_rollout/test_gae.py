"""Advantages against float64 loops from the papers, identities and another library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import given, settings, strategies as st

from rlscan import gae
from rlscan._rollout.gae import explained_variance

GAMMA, LAMBDA = 0.97, 0.8
T = 12

jit_gae = jax.jit(gae)
one_way = st.sampled_from(["goes on", "goes on", "terminated", "truncated", "both"])
endings = st.lists(one_way, min_size=T, max_size=T)


def stream(ends, seed=0):
    """Draw `(reward, value, next_value, terminated, truncated)` of T steps with these endings."""
    rng = np.random.default_rng(seed)
    reward, value, final = rng.normal(size=(3, T)).astype(np.float32)
    terminated = np.array([end in ("terminated", "both") for end in ends])
    truncated = np.array([end in ("truncated", "both") for end in ends])
    # The next value is that of the next step, except where an episode ended.
    after = np.append(value[1:], np.float32(rng.normal()))
    return reward, value, np.where(terminated | truncated, final, after), terminated, truncated


def advantages(reward, value, next_value, terminated, truncated, gamma, gae_lambda):
    """Compute Âₜ = Σₗ (γλ)ˡ δₜ₊ₗ up to the episode's end (Schulman et al. 2016, eq. 14).

    δ bootstraps unless the environment terminated (Pardo et al. 2018, eq. 6).
    """
    reward, value, next_value = (np.asarray(x, np.float64) for x in (reward, value, next_value))
    result = np.zeros(len(reward))
    for t in range(len(reward)):
        for k in range(t, len(reward)):
            bootstrap = 0.0 if terminated[k] else gamma * next_value[k]
            result[t] += (gamma * gae_lambda) ** (k - t) * (reward[k] + bootstrap - value[k])
            if terminated[k] or truncated[k]:
                break
    return result


@settings(max_examples=60, deadline=None)
@given(endings, st.integers(0, 1000), st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_gae_is_the_papers_sum(ends, seed, gamma, gae_lambda):
    steps = stream(ends, seed)
    advantage, target = jit_gae(*steps, gamma=gamma, gae_lambda=gae_lambda)
    expected = advantages(*steps, gamma, gae_lambda)
    np.testing.assert_allclose(advantage, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(target, expected + steps[1], rtol=1e-5, atol=1e-5)


MIXED = ["goes on", "truncated", "goes on", "goes on", "terminated", "goes on"] * 2


@pytest.mark.parametrize("defect", ["truncation is an end", "no cut at truncation", "no cut"])
def test_the_data_tells_common_defects_apart(defect):
    reward, value, next_value, terminated, truncated = steps = stream(MIXED)
    ours, _ = jit_gae(*steps, gamma=GAMMA, gae_lambda=LAMBDA)
    if defect == "truncation is an end":
        theirs = advantages(
            reward, value, next_value, terminated | truncated, truncated, GAMMA, LAMBDA
        )
    else:
        keeps = np.ones(T, bool) if defect == "no cut" else ~terminated
        delta = reward + GAMMA * np.where(terminated, 0, next_value) - value
        theirs, trace = np.zeros(T), 0.0
        for t in reversed(range(T)):
            theirs[t] = trace = delta[t] + GAMMA * LAMBDA * keeps[t] * trace
    assert np.abs(ours - theirs).max() > 0.1


@given(endings)
@settings(max_examples=20, deadline=None)
def test_lambda_0_is_the_td_error(ends):
    reward, value, next_value, terminated, _ = steps = stream(ends)
    advantage, target = jit_gae(*steps, gamma=GAMMA, gae_lambda=0.0)
    expected = np.where(terminated, reward, reward + GAMMA * next_value)
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(advantage, expected - value, rtol=1e-5, atol=1e-6)


@given(endings)
@settings(max_examples=20, deadline=None)
def test_lambda_1_is_the_discounted_return(ends):
    """The return is accumulated backwards in each episode, from the value after it."""
    reward, value, next_value, terminated, truncated = steps = stream(ends)
    # The sum telescopes only if values are consistent, so compare within each episode.
    _, target = jit_gae(*steps, gamma=GAMMA, gae_lambda=1.0)
    following = float(next_value[-1])
    for t in reversed(range(T)):
        if truncated[t]:
            following = next_value[t]
        if terminated[t]:
            following = 0.0
        following = reward[t] + GAMMA * following
        assert target[t] == pytest.approx(following, rel=1e-5, abs=1e-5)


def test_agrees_with_rlax_without_truncation():
    steps = stream(["goes on", "goes on", "terminated", "goes on"] * 3)
    reward, value, next_value, terminated, _ = steps
    discount = GAMMA * (1.0 - terminated)
    values = np.append(value, next_value[-1])
    expected = rlax.truncated_generalized_advantage_estimation(reward, discount, LAMBDA, values)
    advantage, _ = jit_gae(*steps, gamma=GAMMA, gae_lambda=LAMBDA)
    np.testing.assert_allclose(advantage, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("also_truncated", [False, True])
def test_the_next_value_after_termination_is_not_read(also_truncated):
    reward, value, next_value, terminated, truncated = stream(MIXED)
    truncated = truncated | (terminated & also_truncated)
    poisoned = np.where(terminated, np.nan, next_value)
    numbers = {"gamma": GAMMA, "gae_lambda": LAMBDA}
    clean, _ = jit_gae(reward, value, next_value, terminated, truncated, **numbers)
    advantage, _ = jit_gae(reward, value, poisoned, terminated, truncated, **numbers)
    np.testing.assert_array_equal(advantage, clean)

    def total(next_value):
        return jit_gae(reward, value, next_value, terminated, truncated, **numbers)[0].sum()

    # Multiplying by 0 would still let NaN into the gradient.
    gradient = jax.grad(total)(jnp.asarray(poisoned))
    assert np.isfinite(gradient).all() and (gradient[terminated] == 0).all()


def test_only_truncation_bootstraps_and_both_ends_cut():
    """One step that ends an episode, compared with a calculation by hand."""
    reward, value, next_value = np.array([[1, 2, 4], [0, 0, 0], [8, 8, 8]], np.float32)
    no, numbers = np.zeros(3, bool), {"gamma": 0.5, "gae_lambda": 1.0}
    end = np.array([False, True, False])
    truncated, _ = jit_gae(reward, value, next_value, no, end, **numbers)
    terminated, _ = jit_gae(reward, value, next_value, end, no, **numbers)
    both, _ = jit_gae(reward, value, next_value, end, end, **numbers)
    np.testing.assert_array_equal(truncated, [1 + 4 + 0.5 * 6, 2 + 4, 4 + 4])
    np.testing.assert_array_equal(terminated, [1 + 4 + 0.5 * 2, 2, 4 + 4])
    np.testing.assert_array_equal(both, terminated)


def test_one_stream_is_mapped_over_many():
    streams = [stream(MIXED, seed) for seed in range(3)]
    stacked = [np.stack(x, axis=1) for x in zip(*streams, strict=True)]
    mapped = jax.vmap(lambda *x: gae(*x, gamma=GAMMA, gae_lambda=LAMBDA)[0], in_axes=1, out_axes=1)(
        *stacked
    )
    for i, one in enumerate(streams):
        expected = advantages(*one, GAMMA, LAMBDA)
        np.testing.assert_allclose(mapped[:, i], expected, rtol=1e-5, atol=1e-5)


def test_explained_variance():
    rng = np.random.default_rng(0)
    value, target = rng.normal(size=(2, 8, 4)).astype(np.float32)
    residual = (target.astype(np.float64) - value).var()
    expected = 1 - residual / target.astype(np.float64).var()
    assert expected < -0.1
    assert explained_variance(jnp.asarray(value), jnp.asarray(target)) == pytest.approx(
        expected, rel=1e-5
    )
    assert explained_variance(jnp.asarray(target), jnp.asarray(target)) == 1
    assert explained_variance(jnp.asarray(target + 3), jnp.asarray(target)) == pytest.approx(1)
    assert np.isnan(explained_variance(jnp.asarray(value), jnp.ones((8, 4))))


def test_arrays_of_unequal_shapes_are_refused():
    """`[T]` and `[T, 1]` would broadcast to `[T, T]`. The suite's type checks are bypassed here."""
    flags, column = jnp.zeros(4, bool), jnp.zeros((4, 1))
    unchecked = getattr(gae, "__wrapped__", gae)
    with pytest.raises(ValueError, match=r"one shape \[T\], got .* value \(4, 1\)"):
        unchecked(jnp.ones(4), column, column, flags, flags, gamma=0.9, gae_lambda=0.9)


@pytest.mark.parametrize("target", [0.1, -3.3, 1e-30, 0.0])
def test_equal_targets_explain_nothing(target: float):
    value = jnp.linspace(0, 1, 128)
    equal = jnp.full(128, target)
    # `gae` computes them as A + V, which differs from R in the last digit.
    for targets in (equal, (equal - value) + value):
        assert jnp.isnan(explained_variance(value, targets))
