"""One gradient step: complex parameters, the metrics of a loss, and several devices."""

import inspect
from functools import partial
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlscan
from rlscan._core.mesh import FIRST, WHOLE, mean_over_devices, sharded
from rlscan.ppo._gradient_step import Learner, gradient_step
from rlscan.ppo._metrics import gradient_metrics, loss_metrics
from rlscan.ppo._optimizer import init_optimizer

CONFIG = rlscan.ppo.PPOConfig(learning_rate=0.1, anneal_learning_rate=False)


class Numbers(eqx.Module):
    """Parameters of any kind in the place of a policy."""

    of: Any

    def __call__(self, observation: Any, state: Any, *, key: Any) -> Any:
        raise NotImplementedError

    def initial_state(self) -> Any:
        raise NotImplementedError


def learner_of(numbers: Any) -> Learner:
    policy, zero = Numbers(numbers), jnp.zeros((), jnp.int32)
    return Learner(policy, init_optimizer(policy), zero, jnp.asarray(False))


def minibatch_of(size: int = 1) -> Any:
    """Stand in for a minibatch whose recorded log-probabilities are 0."""
    return SimpleNamespace(trajectory=SimpleNamespace(log_prob=jnp.zeros(size)))


def step(learner: Any, loss: Any, minibatch: Any = None, config: Any = CONFIG) -> tuple:
    return inspect.unwrap(gradient_step)(
        learner,
        minibatch_of() if minibatch is None else minibatch,
        config=config,
        loss=lambda policy, *rest: loss(policy.of, *rest),
        num_gradient_steps=jnp.asarray(100.0),
        examine=lambda *_: jnp.asarray(True),
    )


# Complex parameters.


def distance(policy: dict, *_: Any) -> tuple:
    """A loss whose least point is 1 + 2i, and the same of two real numbers."""
    z = policy["z"] if jnp.iscomplexobj(policy["z"]) else policy["z"][0] + 1j * policy["z"][1]
    loss = (jnp.abs(z - (1 + 2j)) ** 2).sum() + (policy["w"] ** 2).sum()
    return loss, (jnp.zeros(1), {})


def test_a_complex_parameter_is_trained_as_its_real_and_imaginary_part():
    start = np.array([0.5 - 1j, 3 + 4j], np.complex64)
    weight = jnp.array([1.0, -2.0, 3.0])
    take = jax.jit(
        lambda learner: jax.lax.scan(lambda before, _: step(before, distance), learner, length=40)
    )
    after, report = take(learner_of({"z": jnp.asarray(start), "w": weight}))
    parts = jnp.stack([start.real, start.imag])
    wanted, wanted_report = take(learner_of({"z": parts, "w": weight}))
    z = after.policy.of["z"]
    assert z.dtype == jnp.complex64 and after.policy.of["w"].dtype == jnp.float32
    np.testing.assert_allclose(jnp.stack([z.real, z.imag]), wanted.policy.of["z"], rtol=1e-5)
    np.testing.assert_allclose(after.policy.of["w"], wanted.policy.of["w"], rtol=1e-5)
    for name in ("loss", "grad_norm"):
        one, other = report["metrics"][name], wanted_report["metrics"][name]
        np.testing.assert_allclose(one, other, rtol=1e-4)
    assert (
        np.diff(report["metrics"]["loss"])[:20] < 0
    ).all()  # downhill, in the imaginary part too


# The metrics that a loss reports.


@pytest.mark.parametrize(
    "value",
    [2, 2.0, True, np.float64(2), np.int8(2), np.array(2.0), jnp.asarray(2), jnp.asarray(True)],
    ids=repr,
)
def test_scalars_of_any_kind_are_metrics(value: Any):
    (metric,) = loss_metrics({"mine": value}).values()
    assert metric.dtype == jnp.float32 and metric.shape == () and metric == float(value)


def test_a_metric_is_averaged_over_the_minibatches_evaluated():
    def loss(policy: Any, *_: Any) -> tuple:
        return policy**2, (jnp.zeros(1), {"constant": 3, "error": policy, "finite": True})

    def epoch(learner: Learner, _: Any) -> tuple:
        return jax.lax.scan(lambda before, _: step(before, loss), learner, length=2)

    _, reports = jax.jit(partial(jax.lax.scan, epoch, length=2))(learner_of(jnp.asarray(1.0)))
    metrics = gradient_metrics(reports)
    assert metrics["constant"] == 3 and metrics["finite"] == 1
    np.testing.assert_allclose(metrics["error"], np.mean([1.0, 0.9, 0.8, 0.7]), atol=0.01)


REFUSED = {
    "a vector": (
        {"mine": jnp.ones(2)},
        "'mine' of a loss must be one real number.*float32.2.*mean",
    ),
    "a dict": ({"mine": {"a": 1.0}}, "'mine' of a loss must be one real number.*'a': 1.0.*parts"),
    "a string": ({"mine": "high"}, "'mine' of a loss must be one real number.*'high'"),
    "nothing": ({"mine": None}, "'mine' of a loss must be one real number.*None"),
    "complex": ({"mine": jnp.asarray(1j)}, "'mine' of a loss must be one real number.*complex64"),
    "taken": ({"approx_kl": 1.0}, "writes the metric 'approx_kl' itself.*another name"),
    "of episodes": ({"num_episodes": 1.0}, "writes the metric 'num_episodes' itself"),
}


@pytest.mark.parametrize("metrics, message", REFUSED.values(), ids=REFUSED)
def test_other_metrics_are_refused_by_name(metrics: dict, message: str):
    def loss(policy: Any, *_: Any) -> tuple:
        return policy**2, (jnp.zeros(1), {"policy_loss": policy, **metrics})

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda learner: step(learner, loss), learner_of(jnp.asarray(1.0)))


def test_metrics_are_a_dict_by_name():
    for metrics in (1.0, (), {0: 1.0}):
        with pytest.raises(TypeError, match="metrics in a dict by name, got .*return {} if"):
            loss_metrics(metrics)


# Several devices.


def test_devices_stop_together_by_their_mean_kl():
    """The mean of k3 = 0.034 and 0 is below the target, and the first alone is not."""

    def loss(policy: Any, minibatch: Any, _: Any) -> tuple:
        log_ratio = minibatch.trajectory.log_prob
        return policy * log_ratio.sum(), (log_ratio, {})

    config = eqx.tree_at(lambda c: c.target_kl, CONFIG, 0.03)

    def on_each(learner: Learner, log_ratio: Any) -> tuple:
        after, report = step(learner, loss, minibatch(log_ratio), config)
        return mean_over_devices(after.policy.of), report["applied"]

    def minibatch(log_ratio: Any) -> Any:
        return SimpleNamespace(trajectory=SimpleNamespace(log_prob=log_ratio))

    run = jax.jit(sharded(on_each, rlscan.make_mesh(2), (WHOLE, FIRST), (WHOLE, WHOLE)))
    policy, applied = run(learner_of(jnp.asarray(1.0)), jnp.array([0.25, 0.0]))
    assert applied
    np.testing.assert_allclose(policy, 0.9, atol=1e-4)  # both took Adam's first step
