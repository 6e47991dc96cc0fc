"""Stochastic layers: noise as in their papers, exact replay, and no noise in inference."""

import dataclasses
from typing import Any

import distrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from jax import lax

import rlscan
from rlscan import filter_scan, init_rollout, nn, replay, rollout

N, T = 4, 21
HIDDEN = 16
GRU = eqx.nn.GRUCell(4, HIDDEN, key=jax.random.key(0))
LSTM = eqx.nn.LSTMCell(4, HIDDEN, key=jax.random.key(1))
CELLS = {"gru": GRU, "lstm": LSTM}

# Layers that take x and a key, each with an example of x.
LAYERS = {
    "drop path": (nn.DropPath(0.3), jnp.ones(5)),
    "channels": (nn.ChannelDropout(0.3), jnp.ones((64, 2, 3))),
    "gaussian": (nn.GaussianDropout(0.3), jnp.ones(5)),
    "noisy linear": (nn.NoisyLinear(5, 3, key=jax.random.key(2)), jnp.ones(5)),
}
RATED = {
    "drop path": nn.DropPath,
    "channels": nn.ChannelDropout,
    "gaussian": nn.GaussianDropout,
    "input of a cell": lambda p: nn.VariationalDropoutCell(GRU, input_dropout=p),
    "hidden of a cell": lambda p: nn.VariationalDropoutCell(GRU, hidden_dropout=p),
}


def call_cell(cell, x, *, key=None, **kwargs):
    """Call a cell twice, like a layer, and return its outputs and the masks it drew."""
    state = cell(x, cell.initial_state(), key=key, **kwargs)
    # The state is zero in the first call, so dropping it shows only in the second.
    state = cell(x, state, key=key, **kwargs)
    return state.output, state.input_mask, state.hidden_mask


CALLS = {
    name: (layer, x, lambda layer, x, **k: layer(x, **k)) for name, (layer, x) in LAYERS.items()
}
CALLS |= {
    name: (nn.VariationalDropoutCell(cell, 0.3, 0.3), jnp.ones(4), call_cell)
    for name, cell in CELLS.items()
}


def assert_mean(samples, mean, variance):
    """Assert a mean within 4.5 standard errors; one test in 100,000 fails by chance."""
    samples = np.asarray(samples, float)
    assert abs(samples.mean() - mean) < 4.5 * np.sqrt(variance / samples.size)


# Replay: the ratio is 1.


class Residual(eqx.Module):
    linear: eqx.nn.Linear
    drop_path: nn.DropPath

    def __call__(self, x, *, key):
        x = self.linear(x)
        return x + self.drop_path(jnp.tanh(2 * x), key=key)


def bodies() -> dict[str, Any]:
    """Linear layers from an observation of four numbers to 16 features, one per kind of noise."""
    linear = eqx.nn.Linear(4, 16, key=jax.random.key(3))
    tanh = eqx.nn.Lambda(jnp.tanh)
    convolution = [
        eqx.nn.Lambda(lambda x: x[None]),
        eqx.nn.Conv1d(1, 4, kernel_size=1, key=jax.random.key(4)),
        nn.ChannelDropout(0.5),
        eqx.nn.Lambda(jnp.ravel),
    ]
    return {
        "drop path": Residual(linear, nn.DropPath(0.5)),
        "channels": eqx.nn.Sequential(convolution),
        "gaussian": eqx.nn.Sequential([linear, tanh, nn.GaussianDropout(0.3)]),
        "noisy linear": eqx.nn.Sequential([nn.NoisyLinear(4, 16, key=jax.random.key(5)), tanh]),
        "annealed": eqx.nn.Sequential([linear, tanh, nn.AnnealedDropout(0.5)]),
    }


BODIES = bodies()


class OneOf(eqx.Module):
    """A policy whose layer is chosen by a traced number, so that one rollout serves all."""

    bodies: tuple
    which: Any

    def __call__(self, x, *, key):
        branches = [lambda x, key, body=body: body(x, key=key) for body in self.bodies]
        return lax.switch(self.which, branches, x, key)


class Remembering(eqx.Module):
    """A policy with a cell of each kind, whose value is the masks it acted with."""

    cells: dict
    actor: eqx.nn.Linear

    def __init__(self):
        self.cells = {
            name: nn.VariationalDropoutCell(cell, 0.5, 0.5) for name, cell in CELLS.items()
        }
        self.actor = eqx.nn.Linear(2 * HIDDEN, 3, key=jax.random.key(6))

    def __call__(self, observation, state, *, key):
        keys = dict(zip(self.cells, jax.random.split(key), strict=True))
        state = {
            name: cell(observation, state[name], key=keys[name])
            for name, cell in self.cells.items()
        }
        output = jnp.concatenate([after.output for after in state.values()])
        masks = {name: (after.input_mask, after.hidden_mask) for name, after in state.items()}
        return distrax.Categorical(logits=4 * self.actor(output)), masks, state

    def initial_state(self):
        return {name: cell.initial_state() for name, cell in self.cells.items()}


@eqx.filter_jit
def roll(policy, num_rollouts):
    """The trajectories of successive rollouts, `[num_rollouts, T, N, …]`."""
    env = probes.Wander()
    state = init_rollout(policy, env, num_envs=N, key=rlscan.key(0))
    step = lambda state, _: rollout(policy, env, state, T)  # noqa: E731
    return filter_scan(step, state, jnp.arange(num_rollouts))[1]


jit_replay = eqx.filter_jit(replay)


def error(log_prob, trajectory):
    old = trajectory.log_prob
    return float((jnp.abs(log_prob - old) / jnp.maximum(1, jnp.abs(old))).max())


def permuted(trajectory):
    return dataclasses.replace(trajectory, policy_key=trajectory.policy_key[:, ::-1])


def ended(trajectory):
    return np.asarray(trajectory.terminated | trajectory.truncated)


@pytest.mark.parametrize("name", BODIES)
def test_the_ratio_is_1(name):
    body = OneOf(tuple(BODIES.values()), jnp.asarray(list(BODIES).index(name)))
    policy = probes._feedforward(body, 16, 3)
    trajectory = jax.tree.map(lambda leaf: leaf[0], roll(policy, 1))
    assert ended(trajectory).any(axis=0).all()  # the rollout crosses resets
    assert error(jit_replay(policy, trajectory)[0], trajectory) <= 1e-5
    assert error(jit_replay(policy, permuted(trajectory))[0], trajectory) > 0.01


@pytest.mark.slow
def test_masks_last_for_an_episode_and_are_replayed():
    """The ratio is 1 across resets, and across the boundary of two rollouts."""
    policy: Any = Remembering()
    rolled = roll(policy, 2)
    first, second = (jax.tree.map(lambda leaf, i=i: leaf[i], rolled) for i in range(2))
    for trajectory in (first, second):
        log_prob, _, masks = jit_replay(policy, trajectory)
        assert error(log_prob, trajectory) <= 1e-5
        jax.tree.map(np.testing.assert_array_equal, masks, trajectory.value)
        assert error(jit_replay(policy, permuted(trajectory))[0], trajectory) > 0.01
    # Without the state of the first rollout, the second one draws other masks.
    unknown = jax.tree.map(jnp.zeros_like, second.initial_policy_state)
    forgetful = dataclasses.replace(second, initial_policy_state=unknown)
    assert error(jit_replay(policy, forgetful)[0], second) > 0.01

    done = np.concatenate([ended(first), ended(second)])
    assert (
        done[:T].any(axis=0).all() and not done[T - 1].all()
    )  # some episodes continue in the second
    for name, cell in policy.cells.items():
        for i, size in enumerate((4, HIDDEN)):
            masks = np.concatenate([first.value[name][i], second.value[name][i]])
            assert masks.shape == (2 * T, N, size)
            same = (masks[1:] == masks[:-1]).all(axis=-1)
            assert same[~done[:-1]].all()
            # Two masks of 4 entries may be equal by chance; two of 16 are not.
            assert same[done[:-1]].mean() < (0.3 if size == 4 else 0.05)
            pairs = (masks[:, :, None] == masks[:, None]).all(axis=-1)  # for pairs of environments
            # Each environment equals itself, which contributes 1 / N.
            assert pairs.mean() - 1 / N < (0.15 if size == 4 else 0.05)

        # The first call of an episode draws from its own key.
        for n in range(N):
            key = jax.random.split(first.policy_key[0, n])[list(CELLS).index(name)]
            drawn = cell(jnp.ones(4), cell.initial_state(), key=key)
            np.testing.assert_array_equal(drawn.input_mask, first.value[name][0][0, n])
            np.testing.assert_array_equal(drawn.hidden_mask, first.value[name][1][0, n])


# The distribution of the noise.


def test_drop_path_drops_all_or_nothing():
    p = 0.3
    keys = jax.random.split(rlscan.key(0), (2**20, 2))
    layer = nn.DropPath(p)

    @jax.jit
    @jax.vmap
    def two_layers(keys):
        return jnp.stack([layer(jnp.ones(3), key=key) for key in keys])

    y = np.asarray(two_layers(keys))
    assert (y == y[..., :1]).all()
    kept = y[..., 0] > 0
    np.testing.assert_allclose(y[..., 0], kept / (1 - p), rtol=1e-6)
    assert_mean(kept, 1 - p, p * (1 - p))
    assert_mean(y[..., 0], 1.0, p / (1 - p))
    # Two layers with a key each, and one layer in two calls, draw independent noise.
    assert abs(np.corrcoef(kept[:, 0], kept[:, 1])[0, 1]) < 4.5 / 2**10
    assert abs(np.corrcoef(kept[1:, 0], kept[:-1, 0])[0, 1]) < 4.5 / 2**10


def test_drop_path_takes_a_branch_of_several_arrays():
    x = {"a": jnp.ones(2), "b": (jnp.ones((2, 3)),)}
    seen = {
        tuple(np.unique(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(y)])).tolist())
        for y in (nn.DropPath(0.5)(x, key=key) for key in jax.random.split(rlscan.key(0), 8))
    }
    assert seen == {(0.0,), (2.0,)}


def test_channel_dropout_drops_whole_channels():
    p, num_channels = 0.3, 2**20
    x = 1 + jnp.arange(3.0).reshape(1, 3, 1) * jnp.ones((num_channels, 1, 1))
    layer = eqx.filter_jit(nn.ChannelDropout(p))
    y, other = (np.asarray(layer(x, key=key)) for key in jax.random.split(rlscan.key(0)))
    kept = y[:, 0, 0] > 0
    np.testing.assert_allclose(y, np.asarray(x) * kept[:, None, None] / (1 - p), rtol=1e-6)
    assert_mean(kept, 1 - p, p * (1 - p))
    assert abs(np.corrcoef(kept, other[:, 0, 0])[0, 1]) < 4.5 / 2**10


def test_gaussian_dropout_has_the_moments_of_dropout():
    p, variance = 0.3, 0.3 / 0.7
    layer = eqx.filter_jit(nn.GaussianDropout(p))
    y, other = (
        np.asarray(layer(jnp.full(2**20, 2.0), key=key)) / 2
        for key in jax.random.split(rlscan.key(0))
    )
    assert_mean(y, 1.0, variance)
    assert_mean((y - 1) ** 2, variance, 2 * variance**2)
    assert_mean((y - 1) ** 3, 0.0, 15 * variance**3)
    assert abs(np.corrcoef(y, other)[0, 1]) < 4.5 / 2**10


def test_masks_of_a_cell():
    """The two masks have their own rates and are independent."""
    input_p, hidden_p = 0.2, 0.6
    square = eqx.nn.GRUCell(HIDDEN, HIDDEN, key=jax.random.key(0))

    def draw(input_p, hidden_p):
        cell = nn.VariationalDropoutCell(square, input_p, hidden_p)
        masks = jax.jit(jax.vmap(lambda key: call_cell(cell, jnp.ones(HIDDEN), key=key)[1:]))
        return map(np.asarray, masks(jax.random.split(rlscan.key(0), 2**16)))

    for mask, p in zip(draw(input_p, hidden_p), (input_p, hidden_p), strict=True):
        assert_mean(mask, 1 - p, p * (1 - p))
    input_mask, hidden_mask = (mask.ravel() for mask in draw(0.5, 0.5))
    assert abs(np.corrcoef(input_mask, hidden_mask)[0, 1]) < 4.5 / 2**10
    input_mask, hidden_mask = draw(0.0, 0.5)
    assert input_mask.all() and not hidden_mask.all()


# NoisyLinear against its paper.


def double(array):
    return np.asarray(array, np.float64)


@pytest.mark.parametrize("use_bias", [True, False])
def test_noisy_linear_against_a_float64_network(use_bias):
    """Equations 9 to 11 with the full noise matrix, from the same draws."""
    p, q = 7, 5
    layer = nn.NoisyLinear(p, q, use_bias, key=rlscan.key(0))
    x, key = jax.random.normal(rlscan.key(1), (p,)), rlscan.key(2)
    in_key, out_key = jax.random.split(key)
    in_noise, out_noise = (
        double(jax.random.normal(k, (size,))) for k, size in ((in_key, p), (out_key, q))
    )
    f = lambda e: np.sign(e) * np.sqrt(np.abs(e))  # noqa: E731
    expected = (
        double(layer.weight) + double(layer.weight_sigma) * np.outer(f(out_noise), f(in_noise))
    ) @ double(x)
    mean = double(layer.weight) @ double(x)
    if use_bias:
        expected += double(layer.bias) + double(layer.bias_sigma) * f(out_noise)
        mean += double(layer.bias)
    else:
        assert layer.bias is None and layer.bias_sigma is None
    np.testing.assert_allclose(layer(x, key=key), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer(x, inference=True), mean, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_noise_of_noisy_linear():
    """The noise matrix has rank 1 and the moments of factorised noise."""
    p, q, num_keys = 4, 3, 2**16
    layer = nn.NoisyLinear(p, q, key=rlscan.key(0))
    noise_alone = eqx.tree_at(
        lambda m: (m.weight, m.bias, m.weight_sigma, m.bias_sigma),
        layer,
        (jnp.zeros((q, p)), jnp.zeros(q), jnp.ones((q, p)), jnp.zeros(q)),
    )
    matrix = jax.vmap(lambda x: noise_alone(x, key=rlscan.key(3)))(jnp.eye(p)).T
    singular = np.linalg.svd(double(matrix), compute_uv=False)
    assert singular[0] > 0.1 and singular[1] < 1e-6 * singular[0]

    x = jnp.array([0.5, -1.0, 2.0, 0.1])
    keys = jax.random.split(rlscan.key(4), num_keys)
    y = double(eqx.filter_jit(jax.vmap(lambda key: layer(x, key=key)))(keys))
    # E[f(ε)] = 0 and E[f(ε)²] = E|ε| = √(2/π).
    of_f = np.sqrt(2 / np.pi)
    variance = (0.5 / np.sqrt(p)) ** 2 * (double(x**2).sum() * of_f**2 + of_f)
    for j in range(q):
        assert_mean(y[:, j], double(layer(x, inference=True))[j], variance)
        assert y[:, j].var() == pytest.approx(variance, rel=0.03)


def test_noisy_linear_starts_as_in_its_paper():
    p, sigma = 64, 0.4
    layer: Any = nn.NoisyLinear(p, 512, sigma=sigma, key=rlscan.key(0))
    bound = 1 / 8
    for mean, noise in ((layer.weight, layer.weight_sigma), (layer.bias, layer.bias_sigma)):
        assert 0.98 * bound < mean.max() <= bound and -bound <= mean.min() < -0.98 * bound
        assert_mean(mean, 0.0, bound**2 / 3)
        np.testing.assert_allclose(noise, sigma * bound, rtol=1e-6)
    column: Any = nn.NoisyLinear(1, 512, key=rlscan.key(0))
    assert (column.weight[:, 0] != column.bias).any()  # from different draws


def test_the_gradient_reaches_means_and_sigmas():
    layer, x = LAYERS["noisy linear"]
    gradient = eqx.filter_grad(lambda layer: (layer(x, key=rlscan.key(0)) ** 2).sum())(layer)
    for leaf in (gradient.weight, gradient.bias, gradient.weight_sigma, gradient.bias_sigma):
        assert (leaf != 0).all()
    # ∂y/∂σ is ∂y/∂μ times the noise of that weight.
    ratio = double(gradient.weight_sigma / gradient.weight)
    assert np.linalg.matrix_rank(ratio, tol=1e-4) == 1


# The cell against a reference in float64.


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru_step(cell, x, h, dropped):
    i = np.split(double(cell.weight_ih) @ x + double(cell.bias), 3)
    r = np.split(double(cell.weight_hh) @ dropped(h), 3)
    z = sigmoid(i[1] + r[1])
    new = np.tanh(i[2] + sigmoid(i[0] + r[0]) * (r[2] + double(cell.bias_n)))
    return (1 - z) * new + z * h  # the carried-over part is not dropped


def lstm_step(cell, x, state, dropped):
    h, c = state
    gates = double(cell.weight_ih) @ x + double(cell.weight_hh) @ dropped(h) + double(cell.bias)
    i, f, g, o = np.split(gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


@pytest.mark.parametrize("name, step", [("gru", gru_step), ("lstm", lstm_step)])
def test_a_cell_against_a_float64_one(name, step):
    input_p, hidden_p = 0.25, 0.5
    cell = nn.VariationalDropoutCell(CELLS[name], input_p, hidden_p)
    state, expected = cell.initial_state(), np.zeros(HIDDEN)
    plain, quiet = state.cell, cell.initial_state()
    expected = (expected, expected) if name == "lstm" else expected
    call = eqx.filter_jit(cell)
    for t, x in enumerate(jax.random.normal(rlscan.key(0), (4, 4))):
        state = call(x, state, key=jax.random.fold_in(rlscan.key(2), t))
        z_x = double(state.input_mask) / (1 - input_p)
        z_h = double(state.hidden_mask) / (1 - hidden_p)
        expected = step(CELLS[name], z_x * double(x), expected, lambda h, z=z_h: z * h)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.cell, expected)
        quiet = call(x, quiet, inference=True)
        plain = CELLS[name](x, plain)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), quiet.cell, plain)
    assert not state.input_mask.all() and not state.hidden_mask.all()
    assert state.output is jax.tree.leaves(state.cell)[0] and state.output.shape == (HIDDEN,)
    assert state.drawn and not quiet.drawn


def test_a_gru_does_not_overflow():
    """The state stays a mean of numbers in (−1, 1), because dropout does not scale its old part."""
    bias = jnp.repeat(jnp.array([0.0, 2.0, 0.0]), HIDDEN)  # its update gate carries most of h over
    open_gate = eqx.tree_at(lambda c: c.bias, GRU, bias)
    cell = nn.VariationalDropoutCell(open_gate, 0.5, 0.5)
    xs = jax.random.normal(rlscan.key(0), (200, 4))
    step = lambda state, x: (cell(x, state, key=rlscan.key(1)), state.output)  # noqa: E731
    _, outputs = jax.jit(lambda: lax.scan(step, cell.initial_state(), xs))()
    assert (jnp.abs(outputs) < 1).all()


def test_no_gradient_passes_dropped_units():
    cell = nn.VariationalDropoutCell(LSTM, 0.5, 0.5)

    def total(cell):
        state = cell.initial_state()
        for t in range(2):
            state = cell(jnp.ones(4), state, key=jax.random.fold_in(rlscan.key(3), t))
        return state.output.sum(), state

    gradient, state = eqx.filter_jit(eqx.filter_grad(total, has_aux=True))(cell)
    assert 0 < state.input_mask.sum() < 4 and 0 < state.hidden_mask.sum() < HIDDEN
    for weight, mask in (
        (gradient.cell.weight_ih, state.input_mask),
        (gradient.cell.weight_hh, state.hidden_mask),
    ):
        np.testing.assert_array_equal((weight != 0).all(axis=0), mask)
        np.testing.assert_array_equal((weight != 0).any(axis=0), mask)


class MyCell(eqx.Module):
    """A user's own cell, which is noisy itself and starts from ones."""

    weight_hh: Any
    noise: nn.NoisyLinear
    input_size: int = 4
    hidden_size: int = 3

    def __call__(self, x, h, *, key):
        return jnp.tanh(self.noise(x, key=key) + self.weight_hh @ h)

    def initial_state(self):
        return jnp.ones(3)


def test_a_users_own_cell():
    cell = nn.VariationalDropoutCell(MyCell(jnp.eye(3), nn.NoisyLinear(4, 3, key=rlscan.key(0))))
    state = cell.initial_state()
    np.testing.assert_array_equal(state.output, 1)
    state = cell(jnp.ones(4), state, key=rlscan.key(0))  # the same masks from here on
    one, two = (cell(jnp.ones(4), state, key=rlscan.key(seed)) for seed in (0, 1))
    assert (one.output != two.output).all()
    for missing in (eqx.nn.Linear(2, 2, key=rlscan.key(0)), jnp.tanh):
        with pytest.raises(
            TypeError, match="input_size, hidden_size and weight_hh.*give that name"
        ):
            nn.VariationalDropoutCell(missing)


# Inference mode, and JAX's transformations.


@pytest.mark.parametrize("name", CALLS)
def test_in_inference_nothing_is_drawn(name):
    layer, x, call = CALLS[name]

    def program(layer, **kwargs):
        return str(jax.make_jaxpr(lambda key: call(layer, x, key=key, **kwargs))(rlscan.key(0)))

    assert "random_bits" in program(layer)
    off, on_again = eqx.nn.inference_mode(layer), eqx.nn.inference_mode(layer, value=False)
    for quiet in (program(off), program(layer, inference=True)):
        assert "random" not in quiet
    assert program(on_again) == program(off, inference=False) == program(layer)
    y = call(off, x)  # needs no key
    for key in jax.random.split(rlscan.key(0), 2):
        jax.tree.map(np.testing.assert_array_equal, call(off, x, key=key), y)
    if name in ("drop path", "channels", "gaussian"):
        np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("make", [nn.DropPath, nn.ChannelDropout, nn.GaussianDropout])
def test_at_rate_0_nothing_is_drawn(make):
    x = jnp.arange(6.0).reshape(2, 3)
    assert make(0)(x) is x
    cell = nn.VariationalDropoutCell(GRU, 0, 0)
    output, *_ = call_cell(cell, jnp.ones(4))
    np.testing.assert_array_equal(output, GRU(jnp.ones(4), GRU(jnp.ones(4), jnp.zeros(HIDDEN))))


@pytest.mark.parametrize("name", CALLS)
def test_a_missing_key_is_refused_with_the_remedy(name):
    layer, x, call = CALLS[name]
    with pytest.raises(
        RuntimeError, match=rf"{type(layer).__name__} requires a key.*inference_mode"
    ):
        call(layer, x)


@pytest.mark.parametrize("name", RATED)
@pytest.mark.parametrize("p", [1.0, -0.1, float("nan")])
def test_a_rate_outside_0_to_1_is_refused(name, p):
    with pytest.raises(
        ValueError, match=r"(p|input_dropout|hidden_dropout) must be .*\[0, 1\), got"
    ):
        RATED[name](p)


def test_a_layer_that_is_not_linear_is_refused():
    for sigma in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="sigma must be a finite number, 0 or more, got"):
            nn.NoisyLinear(2, 2, sigma=sigma, key=rlscan.key(0))
    for sizes in ((0, 2), (2, -1)):
        with pytest.raises(ValueError, match="_features must be a positive integer, got"):
            nn.NoisyLinear(*sizes, key=rlscan.key(0))


@pytest.mark.slow
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_of_any_generator(impl):
    one, two = jax.random.split(jax.random.key(7, impl=impl))
    for name, (layer, x, call) in CALLS.items():
        y, same, other = (jax.tree.leaves(call(layer, x, key=key)) for key in (one, one, two))
        jax.tree.map(np.testing.assert_array_equal, y, same)
        if name != "drop path":  # its one bit may be equal by chance
            assert any((a != b).any() for a, b in zip(y, other, strict=True)), name


@pytest.mark.slow
def test_layers_train_in_a_scan_over_a_batch():
    """All layers are in the carry of one `filter_scan`, under vmap, grad and jit."""
    model = tuple(layer for layer, _, _ in CALLS.values())

    def loss(model, key):
        total = jnp.zeros(())
        for layer, (_, x, call) in zip(model, CALLS.values(), strict=True):
            total += sum(jnp.sum(y) ** 2 for y in jax.tree.leaves(call(layer, x, key=key))[:1])
        return total

    @eqx.filter_grad
    def gradient(model, keys):
        return jax.vmap(lambda key: loss(model, key))(keys).mean()

    def update(model, keys):
        steps = jax.tree.map(lambda g: -0.01 * g, gradient(model, keys))
        return eqx.apply_updates(model, steps), None

    keys = jax.random.split(rlscan.key(0), (3, 8))
    trained, _ = eqx.filter_jit(lambda model: filter_scan(update, model, keys))(model)
    assert jax.tree.structure(trained) == jax.tree.structure(model)
    for before, after in zip(jax.tree.leaves(model), jax.tree.leaves(trained), strict=True):
        if eqx.is_array(before):
            assert np.isfinite(after).all() and (before != after).any()
        else:
            assert before == after  # rates and flags are unchanged
