"""One gradient step of PPO: the gradient of a minibatch's loss, applied by the optimiser."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from .._core.mesh import mean_over_devices
from .._core.tree import where
from .._core.types import Policy, PyTree
from .._rollout.audit import relative_error
from ..nn._trainable import partition_trainable
from ._config import PPOConfig
from ._losses import Loss, Minibatch, ratio_diagnostics
from ._metrics import Metrics


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
) -> tuple[Learner, dict[str, PyTree]]:
    """Make one step of the optimiser on one minibatch, unless `target_kl` has ended the update.

    The learning rate is annealed over `num_gradient_steps`, those of the whole run. On a mesh
    gradients are averaged over devices. `examine(loss, grads, grad_norm, params)` tells what is
    finite, and is reported as `finite`.

    **Returns:** `(learner, report)`; all entries of the report are scalars, except `finite`.
    """
    params, rest = partition_trainable(learner.policy)

    def objective(params: PyTree) -> tuple[Array, tuple[Array, Metrics]]:
        return loss(eqx.combine(params, rest), minibatch, config)

    (total, (log_ratio, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(params)
    diagnostics = ratio_diagnostics(log_ratio, config.clip_range)
    total, grads, kl = mean_over_devices((total, grads, diagnostics["approx_kl"]))

    # The norm of the flat vector, which is what the optimiser clips.
    grad_norm = optax.tree.norm(ravel_pytree(_wide(grads))[0])
    learning_rate = config.learning_rate
    if config.anneal_learning_rate:
        last = jnp.maximum(num_gradient_steps - 1, 1)
        learning_rate *= jnp.maximum(1 - learner.num_gradient_steps / last, 0)
    optimiser = _optimiser(config, learning_rate)
    steps, opt_state = optimiser.update(_wide(grads), learner.opt_state, _wide(params))
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
        "loss": total,
        **metrics,
        **diagnostics,
        "max_log_ratio": jnp.abs(log_ratio).max(),
        "error": relative_error(log_ratio, minibatch.trajectory.log_prob),
        "grad_norm": grad_norm,
        "learning_rate": jnp.asarray(learning_rate),
        "evaluated": ~learner.stopped,
        "applied": ~stopped,
        "finite": examine(total, grads, grad_norm, partition_trainable(result.policy)[0]),
    }


def _optimiser(config: PPOConfig, learning_rate: float | Array) -> optax.GradientTransformation:
    """Build the optimiser inside the trace, so that its numbers may be traced.

    A lever: it works on one flat vector, because one kernel per layer takes longer to compile.
    """
    chain = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adam(learning_rate, eps=config.adam_eps),
    )
    return optax.flatten(chain)


def init_optimiser(params: PyTree) -> PyTree:
    """Make the optimiser's state before the first step. It holds no number of the settings."""
    return _optimiser(PPOConfig(), 0.0).init(_wide(params))


def _wide(tree: PyTree) -> PyTree:
    """Cast to at least float32: moments in bfloat16 would lose most of what is added to them."""
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)
