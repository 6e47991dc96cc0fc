"""The memory layout of weights: another order of computation, but the same numbers."""

import re
from importlib.metadata import version

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlscan
from rlscan._rollout import blocks as _blocks, layout as _layout, rollout as _rollout

ENV = rlscan.make("CartPole-v1")


def make_policy() -> rlscan.policies.ActorCritic:
    return rlscan.policies.ActorCritic(ENV, hidden_sizes=(32, 48), dropout=0.1, key=rlscan.key(0))


def products(function, *args) -> list[tuple[tuple[str, str], str]]:
    """List the matrix products of a compiled program: shape in memory and contracted axes."""
    arrays, static = eqx.partition(args, eqx.is_array)
    program = jax.jit(
        lambda arrays: function(*eqx.combine(arrays, static)),
        compiler_options={"xla_backend_optimization_level": 2},
    )
    text = program.lower(arrays).compile().as_text() or ""
    axes = r"lhs_contracting_dims={(\d)}, rhs_contracting_dims={(\d)}"
    found = re.findall(rf"f32\[(\d+),(\d+)\]{{(\d),\d}} dot\(.*{axes}", text)
    # {0,1} means column-major, which is the transposed matrix in row-major order.
    return [((n, m) if first == "0" else (m, n), i + j) for m, n, first, i, j in found]


@pytest.fixture(autouse=True)
def _small_layers_keep_their_layout(monkeypatch):
    monkeypatch.setattr(_layout, "_FEW", 16)


@pytest.fixture(scope="module")
def recorded():
    policy = make_policy()
    state = rlscan.init_rollout(policy, ENV, num_envs=4, key=rlscan.key(1))
    return policy, state, eqx.filter_jit(rlscan.rollout)(policy, ENV, state, 6)[1]


def loss(policy, trajectory):
    log_prob, entropy, value = rlscan.replay(policy, trajectory)
    return (jnp.arange(log_prob.size).reshape(log_prob.shape) * (log_prob + value) + entropy).sum()


@pytest.mark.slow
def test_transposing_twice_changes_nothing():
    policy = make_policy()
    once = _layout._transposed(policy)
    assert once.actor.layers[0].weight.shape == (4, 32)
    assert eqx.tree_equal(_layout._transposed(once), policy)


class LowRank(eqx.nn.Linear):
    """A layer whose weight is computed, so that it cannot be replaced."""

    left: jax.Array
    right: jax.Array

    def __init__(self):
        self.left, self.right = jnp.ones((32, 2)), jnp.ones((2, 4))
        self.in_features, self.out_features, self.use_bias, self.bias = 4, 32, False, None

    @property
    def weight(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.left @ self.right


LINEAR = eqx.nn.Linear(4, 32, key=jax.random.key(0))


@pytest.mark.parametrize(
    "layer",
    [
        eqx.nn.GRUCell(4, 32, key=jax.random.key(0)),
        eqx.nn.Linear(32, "scalar", key=jax.random.key(0)),
        eqx.nn.Linear(4, 16, key=jax.random.key(0)),
        eqx.filter_vmap(lambda key: eqx.nn.Linear(4, 32, key=key))(
            jax.random.split(jax.random.key(0))
        ),
        eqx.nn.Shared((LINEAR, LINEAR), lambda x: x[1].weight, lambda x: x[0].weight).pytree[1],
        eqx.tree_at(lambda x: x.weight, LINEAR, (LINEAR.weight, LINEAR.weight)),
        eqx.tree_at(lambda x: x.weight, LINEAR, None),
        LowRank(),
    ],
    ids=["gru", "scalar", "few outputs", "ensemble", "shared", "two weights", "none", "low rank"],
)
def test_only_wide_linear_layers_are_transposed(layer):
    assert _layout._transposed(LINEAR).weight.shape == (4, 32)
    assert _layout._transposed(eqx.nn.Linear(4, 17, key=jax.random.key(0))).weight.shape == (4, 17)
    assert eqx.tree_equal(_layout._transposed(layer), layer)


of_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="reads a CPU program")


@pytest.mark.slow
@of_cpu
@pytest.mark.skipif(
    not version("jaxlib").startswith("0.10."),
    reason="XLA of jaxlib 0.11 multiplies by YNNPACK, and undoes the transposition",
)
def test_a_rollout_multiplies_by_input_major_weights(recorded):
    policy, state, _ = recorded

    def actions(policy, state):
        return rlscan.rollout(policy, ENV, state, 6)[1].action

    found = products(actions, policy, state)
    # The wide layers contract without a transpose in the loop; two outputs are too few to change.
    assert set(found) == {(("4", "32"), "10"), (("4", "48"), "10"), (("4", "2"), "11")}


@pytest.mark.slow
def test_a_rollout_is_the_same_in_either_layout(recorded, monkeypatch):
    policy, state, trajectory = recorded
    monkeypatch.setattr(_rollout, "stored_input_major", lambda policy: lambda: policy)
    _, plain = eqx.filter_jit(lambda p, s: rlscan.rollout(p, ENV, s, 6))(policy, state)
    assert eqx.tree_equal(plain.action, trajectory.action)
    np.testing.assert_allclose(plain.log_prob, trajectory.log_prob, rtol=1e-5)


@pytest.mark.slow
def test_gradients_are_the_same_in_either_layout(recorded, monkeypatch):
    policy, _, trajectory = recorded
    ours = eqx.filter_jit(eqx.filter_grad(loss))(policy, trajectory)
    monkeypatch.setattr(_blocks, "shorter_axis_first", lambda tangent: tangent)
    plain = eqx.filter_jit(eqx.filter_grad(lambda *args: loss(*args)))(policy, trajectory)
    assert any(jnp.any(x != 0) for x in jax.tree.leaves(ours))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@of_cpu
def test_weight_gradients_are_computed_shorter_axis_first(recorded):
    policy, _, trajectory = recorded
    shapes = {shape for shape, _ in products(eqx.filter_grad(loss), policy, trajectory)}
    assert {("4", "32"), ("32", "48")} <= shapes
    assert not {("32", "4"), ("48", "32")} & shapes
