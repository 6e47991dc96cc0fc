"""One gradient step of PPO: the gradient of a minibatch's loss, applied by the optimiser."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from .._core.mesh import mean_over_devices
from .._core.tree import where
from .._core.types import Policy, PyTree
from .._rollout.audit import relative_error
from ..nn._trainable import partition_trainable
from ._config import PPOConfig
from ._losses import Loss, Minibatch, parts_of_loss, ratio_diagnostics
from ._metrics import Metrics, loss_metrics
from ._optimizer import Optimizer, gradient_norm, optimizer_steps


class Learner(eqx.Module):
    """The carry of an update's gradient steps."""

    policy: Policy
    opt_state: PyTree
    num_gradient_steps: Int[Array, ""]
    stopped: Bool[Array, ""]  # `target_kl` has ended this update


def gradient_step(
    learner: Learner,
    minibatch: Minibatch,
    *,
    config: PPOConfig,
    loss: Loss,
    num_gradient_steps: Float[Array, ""],
    examine: Callable[..., PyTree],
    optimizer: Optimizer | None = None,
) -> tuple[Learner, dict[str, PyTree]]:
    """Make one step of the optimiser on one minibatch, unless `target_kl` has ended the update.

    The learning rate is annealed over `num_gradient_steps`, those of the whole run. On a mesh
    gradients are averaged over devices. `examine(loss, grads, grad_norm, params)` tells what is
    finite, and is reported as `finite`.

    **Returns:** `(learner, report)`; all entries of the report are scalars, except `finite`. Those
    under `metrics` are averaged over minibatches.
    """
    params, rest = partition_trainable(learner.policy)

    def objective(params: PyTree) -> tuple[Array, tuple[Array, Metrics]]:
        result = loss(eqx.combine(params, rest), minibatch, config)
        total, (log_ratio, metrics) = parts_of_loss(result)
        return total, (log_ratio, loss_metrics(metrics))

    (total, (log_ratio, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(params)
    # The gradient of a complex parameter x + iy comes as ∂/∂x − i ∂/∂y, which is not uphill.
    grads = jax.tree.map(jnp.conj, grads)
    diagnostics = ratio_diagnostics(log_ratio, config.clip_range)
    total, grads, kl = mean_over_devices((total, grads, diagnostics["approx_kl"]))

    grad_norm = gradient_norm(grads)
    learning_rate = config.learning_rate
    if config.anneal_learning_rate:
        last = jnp.maximum(num_gradient_steps - 1, 1)
        done = learner.num_gradient_steps.astype(jnp.float32)
        learning_rate *= jnp.maximum(1 - done / last, 0)
    steps, opt_state = optimizer_steps(
        grads,
        learner.opt_state,
        params,
        config=config,
        learning_rate=learning_rate,
        optimizer=optimizer,
    )
    # Decided before the step is applied, so that a step too far is not taken.
    stopped = learner.stopped | (kl > config.target_kl)
    moved = Learner(
        policy=eqx.combine(optax.apply_updates(params, steps), rest),
        opt_state=opt_state,
        num_gradient_steps=learner.num_gradient_steps + 1,
        stopped=stopped,
    )
    stayed = dataclasses.replace(learner, stopped=stopped)
    result = where(stopped, stayed, moved)
    return result, {
        "metrics": {**metrics, **diagnostics, "loss": total, "grad_norm": grad_norm},
        "max_log_ratio": jnp.abs(log_ratio).max(),
        "error": relative_error(log_ratio, minibatch.trajectory.log_prob),
        "learning_rate": jnp.asarray(learning_rate),
        "evaluated": ~learner.stopped,
        "applied": ~stopped,
        "finite": examine(total, grads, grad_norm, partition_trainable(result.policy)[0]),
    }
