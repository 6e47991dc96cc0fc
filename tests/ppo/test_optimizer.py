"""Optimisers of the caller's own, against a loop by hand over the same gradients."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import probes
import pytest
from compilations import count_compilations

import rlscan
from rlscan.ppo._optimizer import init_optimizer, optimizer_steps
from rlscan.ppo._update import collect, flatten_steps

ENV = probes.Wander()
# One minibatch and one epoch, so that the order of samples has no effect.
CONFIG = rlscan.ppo.PPOConfig(
    num_envs=2, num_steps=8, num_epochs=1, num_minibatches=1, learning_rate=0.01, max_grad_norm=0.1
)
NUM_UPDATES = 3


def no_decay_of_vectors(params: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim > 1, params)


def critic_apart(params: Any) -> Any:
    labels = jax.tree.map(lambda _: "others", params)
    mine = jax.tree.map(lambda _: "critic", params.critic)
    return eqx.tree_at(lambda p: p.critic, labels, mine)


apply_updates: Any = optax.apply_updates  # whose types know no modules

OPTIMIZERS: dict[str, Any] = {
    "adamw": partial(optax.adamw, weight_decay=0.1, mask=no_decay_of_vectors),
    "muon": optax.contrib.muon,
    "sgd": partial(optax.sgd, momentum=0.9),
    "masked": lambda rate: optax.masked(optax.sgd(rate), no_decay_of_vectors),
    "multi_transform": lambda rate: optax.multi_transform(
        {"critic": optax.sgd(10 * rate), "others": optax.adam(rate)}, critic_apart
    ),
}


def gradient(state: Any) -> Any:
    """The gradient of the update that follows a state."""
    return eqx.filter_jit(_gradient)(state)


def _gradient(state: Any) -> Any:
    policy, _, batch, *_ = collect(state, ENV, CONFIG)
    minibatch = flatten_steps(batch)
    params, rest = eqx.partition(policy, eqx.is_inexact_array)

    def loss(params: Any) -> Any:
        return rlscan.ppo.ppo_loss(eqx.combine(params, rest), minibatch, CONFIG)[0]

    return jax.grad(loss)(params)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_its_steps_are_those_of_a_loop_by_hand(name: str):
    """The rate differs from step to step, and the gradient is clipped before."""
    optimizer = OPTIMIZERS[name]
    params, _ = rlscan.nn.partition_trainable(probes.dropout_policy())
    opt_state = init_optimizer(params, optimizer)

    @jax.jit
    def step(grads: Any, opt_state: Any, params: Any, rate: Any) -> tuple:
        moves, opt_state = optimizer_steps(
            grads, opt_state, params, config=CONFIG, learning_rate=rate, optimizer=optimizer
        )
        return optax.apply_updates(params, moves), opt_state

    @jax.jit
    def by_hand(grads: Any, state: Any, tree: Any, rate: Any) -> tuple:
        scale = jnp.minimum(1.0, 0.1 / optax.tree.norm(grads))
        grads = jax.tree.map(lambda g: g * scale, grads)
        moves, state = optimizer(rate).update(grads, state, tree)
        return apply_updates(tree, moves), state

    tree, state = params, optimizer(0.0).init(params)
    for i in range(3):
        keys = iter(jax.random.split(jax.random.key(i), 99))
        grads = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), params)  # noqa: B023
        rate = jnp.asarray(0.01 / (i + 1))
        params, opt_state = step(grads, opt_state, params, rate)
        tree, state = by_hand(grads, state, tree, rate)
        assert_close(params, tree)


def assert_close(ours: Any, by_hand: Any) -> None:
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(by_hand), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.slow
def test_training_takes_the_steps_of_a_loop_by_hand():
    """One minibatch an update, at the annealed rate."""
    optimizer = OPTIMIZERS["adamw"]
    training = start(optimizer, total_steps=16 * NUM_UPDATES, updates_per_call=1)
    params = eqx.filter(training.state.policy, eqx.is_inexact_array)
    opt_state, before = optimizer(0.0).init(params), training.state
    for update in range(NUM_UPDATES):
        rate = 0.01 * (1 - update / (NUM_UPDATES - 1))
        grads = gradient(before)
        scale = min(1.0, 0.1 / float(optax.tree.norm(grads)))
        grads = jax.tree.map(lambda g, scale=scale: g * scale, grads)
        moves, opt_state = optimizer(rate).update(grads, opt_state, params)
        params = apply_updates(params, moves)
        before, metrics = next(training)
        assert metrics["learning_rate"] == pytest.approx(rate)
        assert_close(eqx.filter(before.policy, eqx.is_inexact_array), params)


def start(optimizer: Any, **settings: Any) -> Any:
    policy, settings = probes.dropout_policy(), {"total_steps": 16, **settings}
    return rlscan.train(policy, ENV, CONFIG, key=rlscan.key(0), optimizer=optimizer, **settings)


REFUSED = {
    "a transformation": (optax.sgd(0.1), "got a GradientTransformation; write .*lambda learning_r"),
    "a name": ("adamw", "optimizer must be a function of the learning rate .* got 'adamw'"),
    "a function of something else": (lambda rate: rate, "but it returned DynamicJaxprTracer"),
}


@pytest.mark.parametrize("optimizer, message", REFUSED.values(), ids=REFUSED)
def test_what_is_no_optimiser_is_refused_before_anything_compiles(
    optimizer: Any, message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the suite's own type checks
    with count_compilations() as names, pytest.raises(TypeError, match=message):
        start(optimizer)
    assert not names


def test_an_optimiser_that_would_keep_its_first_rate_is_refused():
    with pytest.raises(ValueError, match="not keep the learning rate in its state.*=optax.adam"):
        start(lambda rate: optax.inject_hyperparams(optax.adam)(learning_rate=rate))


@pytest.mark.slow
def test_complex_and_small_parameters_are_seen_as_wide_real_ones():
    class Numbers(eqx.Module):
        z: Any
        half: Any

    seen = []

    def optimizer(rate: Any) -> Any:
        def update(updates: Any, state: Any, params: Any = None) -> Any:
            seen.append((params, jax.tree.map(lambda g: g.dtype, updates)))
            return jax.tree.map(lambda g: -rate * g, updates), state

        return optax.GradientTransformation(lambda params: params, update)

    params = Numbers(jnp.asarray([1 + 2j]), jnp.ones(3, jnp.bfloat16))
    state = init_optimizer(params, optimizer)
    moves, _ = optimizer_steps(
        params, state, params, config=rlscan.ppo.PPOConfig(), learning_rate=0.5, optimizer=optimizer
    )
    assert seen[-1][0].z.tolist() == [[1.0], [2.0]]
    assert set(jax.tree.leaves(seen[-1][1])) == {jnp.dtype("float32")}
    norm = np.sqrt(1 + 4 + 3)
    np.testing.assert_allclose(moves.z, -0.5 * (0.5 / norm) * params.z, rtol=1e-6)
