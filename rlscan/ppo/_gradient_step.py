"""One gradient step of PPO: the loss of a minibatch, and what the optimiser makes of it."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from .._core.mesh import mean_over
from .._core.tree import where
from .._core.types import Policy, PyTree
from .._rollout.audit import relative_error
from ..nn._trainable import partition_trainable
from ._config import PPOConfig
from ._losses import Loss, Minibatch, ratio_diagnostics
from ._metrics import Metrics


class Learner(eqx.Module):
    """What the gradient steps of one update carry."""

    policy: Policy
    opt_state: PyTree
    num_gradient_steps: Int[Array, ""]
    stopped: Bool[Array, ""]  # by `target_kl`, for the rest of this update


def gradient_step(
    learner: Learner,
    minibatch: Minibatch,
    *,
    config: PPOConfig,
    loss: Loss,
    num_gradient_steps: Float[Array, ""],
    axis: str | None,
    judge: Callable[..., PyTree],
) -> tuple[Learner, dict[str, PyTree]]:
    """One step of the optimiser on one minibatch, unless `target_kl` has ended the update.

    `num_gradient_steps` of the whole run are what the learning rate is annealed over. On a mesh
    gradients are means over the devices of `axis`. What `judge(loss, grads, grad_norm, params)`
    says is reported as `finite`.

    **Returns:** `(learner, report)`, with scalars alone in the report, but for what `judge` says.
    """
    params, rest = partition_trainable(learner.policy)

    def objective(params: PyTree) -> tuple[Array, tuple[Array, Metrics]]:
        return loss(eqx.combine(params, rest), minibatch, config)

    (total, (log_ratio, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(params)
    diagnostics = ratio_diagnostics(log_ratio, config.clip_range)
    total, grads, kl = mean_over(axis, (total, grads, diagnostics["approx_kl"]))

    # Of the flat vector, as the optimiser's own.
    grad_norm = optax.tree.norm(ravel_pytree(_wide(grads))[0])
    learning_rate = config.learning_rate
    if config.anneal_learning_rate:
        last = jnp.maximum(num_gradient_steps - 1, 1)
        learning_rate *= jnp.maximum(1 - learner.num_gradient_steps / last, 0)
    optimiser = _optimiser(config, learning_rate)
    steps, opt_state = optimiser.update(_wide(grads), learner.opt_state, _wide(params))
    # Judged before the step is applied, so that a step too far is not taken.
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
        "finite": judge(total, grads, grad_norm, partition_trainable(result.policy)[0]),
    }


def _optimiser(config: PPOConfig, learning_rate: float | Array) -> optax.GradientTransformation:
    """Built where it is used, inside the trace, so that its numbers may be traced ones.

    On one flat vector, not with as many small kernels as there are layers: a step takes as long,
    and an update compiles in a second less (`python -m benchmarks --only levers`).
    """
    chain = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adam(learning_rate, eps=config.adam_eps),
    )
    return optax.flatten(chain)


def init_optimiser(config: PPOConfig, params: PyTree) -> PyTree:
    """The optimiser's state before the first step; no learning rate is in it."""
    return _optimiser(config, 0.0).init(_wide(params))


def _wide(tree: PyTree) -> PyTree:
    """In float32 at least: the moments of bfloat16 gradients would lose what is added to them."""
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)
