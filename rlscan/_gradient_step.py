"""One gradient step of PPO: the loss of a minibatch, and what the optimiser makes of it."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from ._devices import mean_over
from ._losses import (
    clipped_policy_loss,
    clipped_value_loss,
    normalize,
    ratio_diagnostics,
    relative_error,
)
from ._metrics import Metrics
from ._ppo_config import PPOConfig
from ._pytree import where
from ._replay import replay
from ._rollout import Trajectory
from ._trainable import partition_trainable
from ._types import Policy, PyTree


class Minibatch(eqx.Module):
    """What a loss is computed from: B steps, or T steps of n environments if recurrent."""

    trajectory: Trajectory  # leaves [B, …], or [T, n, …]
    value: Float[Array, "*B"]  # of the policy that acted
    advantage: Float[Array, "*B"]  # not normalised
    target: Float[Array, "*B"]  # for the value


# `loss(policy, minibatch, config) -> (loss, (log_ratio, metrics))`: a scalar to minimise, the
# log-ratios [B] that the audit and the KL stop look at, and scalars to report.
Loss = Callable[[Policy, Minibatch, PPOConfig], tuple[Array, tuple[Array, Metrics]]]


def ppo_loss(
    policy: Policy, minibatch: Minibatch, config: PPOConfig
) -> tuple[Float[Array, ""], tuple[Float[Array, "*B"], Metrics]]:
    """Clipped surrogate + value_coef · value loss − entropy_coef · entropy, by exact replay.

    The default `loss` of `update` and `train`; write another with the same arguments and results
    to replace it. Advantages are normalised over the minibatch.

    **Returns:** `(loss, (log_ratio, metrics))`, with log π(a | s) − log π_old(a | s) per step.
    """
    log_prob, entropy, value = replay(policy, minibatch.trajectory)
    log_ratio = log_prob - minibatch.trajectory.log_prob
    policy_loss = clipped_policy_loss(log_ratio, normalize(minibatch.advantage), config.clip_range)
    value_loss = clipped_value_loss(
        value, minibatch.value, minibatch.target, config.value_clip_range
    )
    entropy = entropy.mean()
    loss = policy_loss + config.value_coef * value_loss - config.entropy_coef * entropy
    metrics = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
    return loss, (log_ratio, metrics)


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
