"""Densities, entropies, modes and masks, against NumPy in float64."""

import math
from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import rlscan
from rlscan._core.spaces import legal_action
from rlscan.policies._action_head import masked
from rlscan.policies._distributions import Beta, Joint, TanhNormal

LOW, HIGH = np.asarray([-2.0, 1.0]), np.asarray([6.0, 1.5])


def tanh_normal(loc: Any, scale: Any, seed: int = 0) -> TanhNormal:
    loc, scale = jnp.asarray(loc, jnp.float32), jnp.asarray(scale, jnp.float32)
    noise = jax.random.normal(rlscan.key(seed), loc.shape)
    center, half_width = (jnp.asarray(x, jnp.float32) for x in ((LOW + HIGH) / 2, (HIGH - LOW) / 2))
    return TanhNormal(loc, scale, noise, center, half_width, 1)


def beta(over_one: Any, under_one: Any) -> Beta:
    over_one, under_one, low, width = (
        jnp.asarray(x, jnp.float32) for x in (over_one, under_one, LOW, HIGH - LOW)
    )
    return Beta(over_one, under_one, low, width, 1)


def reference(loc: float, scale: float, half_width: float) -> tuple[np.ndarray, np.ndarray, float]:
    """A grid of u, the log-density of h · tanh(u) there, and its entropy; for one component."""
    u = loc + scale * np.linspace(-9, 9, 200_001)
    log_normal = -0.5 * ((u - loc) / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi))
    # 1 − tanh² = 1 / cosh²
    log_cosh = np.abs(u) + np.log1p(np.exp(-2 * np.abs(u))) - math.log(2)
    log_p = log_normal - math.log(half_width) + 2 * log_cosh
    return u, log_p, float(-np.trapezoid(np.exp(log_normal) * log_p, u))


def key_batch(num: int, seed: int = 5) -> Any:
    return jax.random.split(rlscan.key(seed), num)


# The squashed Gaussian.


@pytest.mark.parametrize("loc, scale", [((0.3, -1.0), (1.0, 0.4)), ((30.0, -30.0), (0.5, 2.0))])
def test_log_prob_of_a_squashed_gaussian(loc: tuple, scale: tuple) -> None:
    distribution = tanh_normal(loc, scale)
    grids = [reference(m, s, h) for m, s, h in zip(loc, scale, (4.0, 0.25), strict=True)]
    for i in (60_000, 100_000, 133_000):
        u = jnp.asarray([grid[0][i] for grid in grids], jnp.float32)
        log_p = sum(grid[1][i] for grid in grids)
        np.testing.assert_allclose(distribution.log_prob(u), log_p, rtol=2e-6, atol=2e-5)


def test_its_density_over_the_box_integrates_to_one() -> None:
    """The density is in the units of the box, that is of the action which is sent."""
    one = tanh_normal([0.3, 0.2], [1.0, 0.7])
    first = jax.tree.map(lambda x: x[:1], one)
    u = np.linspace(-9, 9, 20_001)
    log_p = np.asarray(jax.vmap(first.log_prob)(jnp.asarray(u[:, None], jnp.float32)), np.float64)
    sent = 2 + 4 * np.tanh(u)
    np.testing.assert_allclose(np.trapezoid(np.exp(log_p), sent), 1, atol=1e-4)
    np.testing.assert_allclose(
        jax.vmap(first.legal)(jnp.asarray(u[:, None]))[:, 0], sent, rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
def test_its_entropy_and_the_gradient_are_right_on_average() -> None:
    loc, scale = (0.8, -0.4), (1.2, 0.5)

    def entropy(loc: Any, scale: Any, key: Any) -> Any:
        noise = jax.random.normal(key, (2,))
        d = tanh_normal(loc, scale)
        return TanhNormal(d.loc, d.scale, noise, d.center, d.half_width, 1).entropy()

    value, gradient = jax.vmap(
        jax.value_and_grad(entropy, argnums=(0, 1)), in_axes=(None, None, 0)
    )(jnp.asarray(loc), jnp.asarray(scale), key_batch(20_000))

    def exact(m: np.ndarray, s: np.ndarray) -> float:
        return sum(reference(*x)[2] for x in zip(m, s, (4.0, 0.25), strict=True))

    m, s = np.asarray(loc), np.asarray(scale)
    assert abs(np.asarray(value).mean() - exact(m, s)) < 5 * np.std(value) / math.sqrt(20_000)
    for i in range(2):
        for wanted, got in (
            ((exact(m + 1e-3 * np.eye(2)[i], s) - exact(m - 1e-3 * np.eye(2)[i], s)), gradient[0]),
            ((exact(m, s + 1e-3 * np.eye(2)[i]) - exact(m, s - 1e-3 * np.eye(2)[i])), gradient[1]),
        ):
            error = abs(np.asarray(got)[:, i].mean() - wanted / 2e-3)
            assert error < 5 * np.std(got[:, i]) / math.sqrt(20_000)
    # A distribution this wide is pushed away from the bounds, so its gradient is not 0.
    assert np.asarray(gradient[0])[:, 0].mean() < -0.3


@pytest.mark.slow
def test_the_recorded_action_would_give_the_entropy_no_gradient() -> None:
    """Shows why the entropy needs its own, reparameterised sample."""

    def surprise(loc: Any, key: Any) -> Any:
        d = tanh_normal(loc, (1.2, 0.5))
        return -d.log_prob(jax.lax.stop_gradient(d.sample(seed=key)))

    value, gradient = jax.vmap(jax.value_and_grad(surprise), in_axes=(None, 0))(
        jnp.asarray([0.8, -0.4]), key_batch(20_000)
    )
    exact = reference(0.8, 1.2, 4.0)[2] + reference(-0.4, 0.5, 0.25)[2]
    assert abs(np.asarray(value).mean() - exact) < 5 * np.std(value) / math.sqrt(20_000)
    standard_error = np.std(np.asarray(gradient), axis=0) / math.sqrt(20_000)
    assert (np.abs(np.asarray(gradient).mean(axis=0)) < 5 * standard_error).all()


def test_it_samples_the_gaussian_and_sends_its_tanh() -> None:
    d = tanh_normal([0.5, -1.0], [1.0, 0.2])
    u = np.asarray(jax.vmap(lambda key: d.sample(seed=key))(key_batch(20_000)))
    np.testing.assert_allclose(u.mean(axis=0), [0.5, -1.0], atol=5 / math.sqrt(20_000))
    np.testing.assert_allclose(u.std(axis=0), [1.0, 0.2], rtol=0.03)
    assert abs(np.corrcoef(u.T)[0, 1]) < 0.04
    np.testing.assert_array_equal(d.mode(), d.loc)
    np.testing.assert_allclose(d.legal(d.mode()), [2 + 4 * np.tanh(0.5), 1.25 - 0.25 * np.tanh(1)])


@pytest.mark.slow
def test_a_squashed_gaussian_is_finite_wherever_it_is() -> None:
    def numbers(loc: Any, scale: Any, key: Any) -> Any:
        d = tanh_normal(loc, scale)
        u = jax.lax.stop_gradient(d.sample(seed=key))
        return d.log_prob(u) + d.entropy()

    places = [(m, s) for m in (0.0, 30.0, -30.0, 300.0) for s in (0.01, 1.0, 10.0)] * 20
    loc, scale = (jnp.asarray(x)[:, None] * jnp.ones(2) for x in zip(*places, strict=True))
    found = jax.vmap(jax.value_and_grad(numbers, argnums=(0, 1)))(
        loc, scale, key_batch(len(places))
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


# The Beta.


@pytest.mark.slow
def test_density_and_entropy_of_a_beta() -> None:
    over, under = np.asarray([0.7, 4.0]), np.asarray([2.5, 0.3])
    d = beta(over, under)
    x = np.linspace(1e-6, 1 - 1e-6, 200_001)
    entropy, densities = 0.0, []
    for a, b, width in zip(over, under, HIGH - LOW, strict=True):
        log_norm = math.lgamma(1 + a) + math.lgamma(1 + b) - math.lgamma(2 + a + b)
        log_p = a * np.log(x) + b * np.log1p(-x) - log_norm - math.log(width)
        np.testing.assert_allclose(np.trapezoid(np.exp(log_p), width * x), 1, atol=1e-4)
        entropy -= np.trapezoid(np.exp(log_p) * log_p, width * x)
        densities.append(log_p)
    for i, j in ((30_000, 170_000), (100_000, 5_000)):
        value = jnp.asarray([x[i], x[j]], jnp.float32)
        wanted = densities[0][i] + densities[1][j]
        np.testing.assert_allclose(d.log_prob(value), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(d.entropy(), entropy, rtol=1e-3)
    peaks = [x[np.argmax(p)] for p in densities]
    np.testing.assert_allclose(d.mode(), peaks, atol=1e-5)
    np.testing.assert_allclose(d.legal(d.mode()), LOW + (HIGH - LOW) * peaks, rtol=1e-4)

    samples = np.asarray(jax.vmap(lambda key: d.sample(seed=key))(key_batch(5000)))
    alpha, b = 1 + over, 1 + under
    mean, std = alpha / (alpha + b), np.sqrt(alpha * b / ((alpha + b) ** 2 * (alpha + b + 1)))
    np.testing.assert_allclose(samples.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(d.mean(), mean, rtol=1e-5)
    np.testing.assert_allclose(d.stddev(), std, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("over, under", [(0.0, 0.0), (30, 30), (1e7, 0.0), (1e-9, 1e-30)])
def test_a_beta_is_finite_wherever_it_is(over: float, under: float) -> None:
    """Includes samples next to a bound, which float32 rounds to 0 or 1."""

    def numbers(over: Any, under: Any, key: Any) -> Any:
        d = beta(over, under)
        x = jax.lax.stop_gradient(d.sample(seed=key))
        extreme = d.log_prob(jnp.asarray([1e-6, 1 - 1e-6]))
        return d.log_prob(x) + d.entropy() + d.log_prob(d.mode()) + extreme, (x, d.mode())

    (value, (x, mode)), gradient = jax.vmap(
        jax.value_and_grad(numbers, argnums=(0, 1), has_aux=True), in_axes=(None, None, 0)
    )(jnp.full(2, over, jnp.float32), jnp.full(2, under, jnp.float32), key_batch(100))
    assert np.isfinite(value).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert ((0 < x) & (x < 1) & (0 < mode) & (mode < 1)).all()


# Joint distributions.


def joint(logits: Any, loc: Any) -> Joint:
    one = tanh_normal(loc, [1.0, 0.5])
    return Joint({"b": (distrax.Categorical(logits=logits), one), "a": one})


@pytest.mark.slow
def test_a_joint_is_of_independent_parts() -> None:
    d = joint(jnp.asarray([0.3, -1.0, 0.0]), [0.5, -0.5])
    category, one = d.distributions["b"]
    action = d.sample(seed=rlscan.key(3))
    assert set(action) == {"a", "b"} and isinstance(action["b"], tuple)
    assert (action["a"] != action["b"][1]).all()  # equal distributions, drawn with different keys
    log_p = category.log_prob(action["b"][0]) + one.log_prob(action["b"][1])
    np.testing.assert_allclose(d.log_prob(action), log_p + one.log_prob(action["a"]), rtol=1e-6)
    np.testing.assert_allclose(d.entropy(), category.entropy() + 2 * one.entropy(), rtol=1e-6)
    assert jax.tree.all(jax.tree.map(np.array_equal, d.mode(), {"a": one.loc, "b": (0, one.loc)}))
    legal = d.legal(action)
    np.testing.assert_array_equal(legal["a"], one.legal(action["a"]))
    np.testing.assert_array_equal(legal["b"][1], one.legal(action["b"][1]))
    assert legal["b"][0] == action["b"][0]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_distributions_go_through_every_transformation() -> None:
    logits = jax.random.normal(rlscan.key(0), (5, 3))
    locs = jax.random.normal(rlscan.key(1), (5, 2))
    betas = jnp.abs(jax.random.normal(rlscan.key(2), (5, 2, 2)))

    def build(logits: Any, loc: Any, b: Any) -> Joint:
        return Joint((joint(logits, loc), beta(*b)))

    def numbers(d: Joint, key: Any) -> Any:
        action = d.sample(seed=key)
        return action, d.log_prob(action), d.entropy(), d.mode(), d.legal(action)

    keys, parameters = key_batch(5), (logits, locs, betas)
    one = jax.jit(lambda key, *parameters: numbers(build(*parameters), key))
    each = [one(keys[i], *(x[i] for x in parameters)) for i in range(5)]
    wanted = jax.tree.map(lambda *xs: jnp.stack(xs), *each)
    mapped = jax.jit(jax.vmap(build))(*parameters)
    _, scanned = rlscan.filter_scan(lambda c, x: (c, build(*x)), None, parameters)
    for batch in (mapped, scanned):
        assert batch.log_prob(wanted[0]).shape == (5,)
        np.testing.assert_allclose(batch.log_prob(wanted[0]), wanted[1], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(batch.entropy(), wanted[2], rtol=1e-5, atol=1e-5)
        found = jax.vmap(numbers)(batch, keys)
        for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_actions_without_their_own_mapping_are_clipped() -> None:
    box = rlscan.make("Pendulum-v1").action_space()
    gaussian = distrax.Independent(distrax.Normal(jnp.zeros(1), jnp.ones(1)), 1)
    assert legal_action(box, jnp.asarray([7.0]), gaussian) == 2
    assert legal_action(box, jnp.asarray([0.3]), gaussian) == jnp.float32(0.3)


# Masks.


def renormalised(logits: np.ndarray, mask: np.ndarray) -> np.ndarray:
    p = np.where(mask, np.exp(logits - logits[mask].max()), 0)
    return p / p.sum()


@pytest.mark.parametrize("largest", [1.0, 30.0, 1e4])
def test_a_mask_leaves_the_legal_ones_as_they_were(largest: float) -> None:
    random = np.random.default_rng(0)
    for mask in ([1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1], [0, 1, 0, 1]):
        logits, mask = largest * random.normal(size=4), np.asarray(mask, bool)
        d = distrax.Categorical(logits=masked(jnp.asarray(logits), jnp.asarray(mask)))
        p = renormalised(logits, mask)
        np.testing.assert_allclose(d.probs, p, rtol=1e-5, atol=1e-7)
        assert (np.asarray(d.probs)[~mask] == 0).all()
        log_prob = np.asarray([d.log_prob(i) for i in range(4)])
        assert (log_prob[~mask] < -1e29).all() and np.isfinite(log_prob).all()
        entropy = -sum(q * math.log(q) for q in p if q > 0)
        np.testing.assert_allclose(d.entropy(), entropy, rtol=1e-4, atol=1e-6)
        assert mask[int(d.mode())] and d.mode() == np.argmax(np.where(mask, logits, -np.inf))
        samples = np.asarray(jax.vmap(lambda key: d.sample(seed=key))(key_batch(1000)))  # noqa: B023
        assert mask[samples].all()


@pytest.mark.slow
def test_gradients_under_a_mask_depend_only_on_legal_actions() -> None:
    logits, mask = jnp.asarray([0.3, 2.0, -1.0, 5.0]), jnp.asarray([True, False, True, False])

    def both(logits: Array) -> Any:
        d = distrax.Categorical(logits=masked(logits, mask))
        return d.log_prob(0) + 3 * d.entropy()

    def small(logits: Array) -> Any:
        d = distrax.Categorical(logits=logits[::2])
        return d.log_prob(0) + 3 * d.entropy()

    gradient = np.asarray(jax.grad(both)(logits))
    np.testing.assert_allclose(gradient, jax.grad(small)(logits), atol=1e-6)
    assert (gradient[[1, 3]] == 0).all()

    def of_illegal(logits: Any) -> Any:
        return distrax.Categorical(logits=masked(logits, mask)).log_prob(1)

    assert np.isfinite(jax.grad(of_illegal)(logits)).all()


def test_without_a_legal_action_all_is_nan() -> None:
    d = distrax.Categorical(logits=masked(jnp.zeros(3), jnp.zeros(3, bool)))
    assert np.isnan(d.entropy()) and all(np.isnan(d.log_prob(i)) for i in range(3))
    assert d.sample(seed=rlscan.key(0)) == -1  # no action
    # Other rows are unaffected.
    mask = jnp.asarray([[False] * 3, [True, True, False]])
    np.testing.assert_array_equal(
        np.isnan(distrax.Categorical(logits=masked(jnp.zeros((2, 3)), mask)).entropy()), [1, 0]
    )
