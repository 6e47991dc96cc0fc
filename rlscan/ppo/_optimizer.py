"""The optimiser of a gradient step: Adam, or one of the caller's own."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from .._core.tree import wide
from .._core.types import PyTree
from ._config import PPOConfig

# `optimizer(learning_rate) -> optax.GradientTransformation`, such as `optax.adamw`. It is called
# whenever a gradient step is traced, with the learning rate of that step, a traced number.
Optimizer = Callable[[Any], optax.GradientTransformation]

_RATE = jax.ShapeDtypeStruct((), jnp.float32)


def check_optimizer(optimizer: Any) -> None:
    """Raise `TypeError` if an optimiser is none; compile nothing."""
    if optimizer is not None:
        jax.eval_shape(lambda rate: [_transformation(optimizer, rate), None][1], _RATE)


def init_optimizer(params: PyTree, optimizer: Optimizer | None = None) -> PyTree:
    """Make the optimiser's state before the first step. It holds no number of the settings.

    **Raises:** `TypeError` if the optimiser is none; `ValueError` if its state holds the learning
    rate.
    """
    if optimizer is None:
        return _optimiser(PPOConfig(), 0.0, None).init(_wide_and_real(params))

    def init(rate: Array) -> PyTree:
        return _optimiser(PPOConfig(), rate, optimizer).init(_wide_and_real(params))

    with jax.numpy_dtype_promotion("standard"):
        if _reads_input(jax.make_jaxpr(lambda rate: eqx.filter(init(rate), eqx.is_array))(_RATE)):
            raise ValueError(
                "optimizer must not keep the learning rate in its state, as "
                "optax.inject_hyperparams does, since the rate changes from step to step; pass the "
                "function that it wraps, such as optimizer=optax.adam"
            )
        return init(jnp.zeros(()))


def optimizer_steps(
    grads: PyTree,
    opt_state: PyTree,
    params: PyTree,
    *,
    config: PPOConfig,
    learning_rate: float | Array,
    optimizer: Optimizer | None,
) -> tuple[PyTree, PyTree]:
    """Clip a gradient, and compute `(steps, opt_state)`: what to add to the parameters."""
    wide_grads, wide_params = _wide_and_real(grads), _wide_and_real(params)
    with jax.numpy_dtype_promotion("standard"):  # optax takes floats to the power of integers
        transformation = _optimiser(config, learning_rate, optimizer)
        steps, opt_state = transformation.update(wide_grads, opt_state, wide_params)
    return _as_complex(steps, params), opt_state


def _optimiser(
    config: PPOConfig, learning_rate: float | Array, optimizer: Optimizer | None
) -> optax.GradientTransformation:
    """Build the optimiser inside the trace, so that its numbers may be traced.

    A lever: Adam works on one flat vector, because one kernel per layer takes longer to compile.
    """
    clip = optax.clip_by_global_norm(config.max_grad_norm)
    if optimizer is None:
        return optax.flatten(optax.chain(clip, optax.adam(learning_rate, eps=config.adam_eps)))
    return optax.chain(clip, _transformation(optimizer, learning_rate))


def _transformation(optimizer: Any, learning_rate: Any) -> optax.GradientTransformation:
    """Call an optimiser with its learning rate; `TypeError` if it is none."""
    wanted = "optimizer must be a function of the learning rate that returns an optax."
    wanted += "GradientTransformation, such as optimizer=optax.adamw"
    if isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"{wanted}, got a GradientTransformation; write optimizer=lambda learning_rate: … "
            "around the call that makes it"
        )
    if not callable(optimizer):
        raise TypeError(f"{wanted}, got {optimizer!r}")
    found = optimizer(learning_rate)
    if not isinstance(found, optax.GradientTransformation):
        raise TypeError(f"{wanted}, but it returned {type(found).__name__}")
    return found


def _reads_input(traced: ClosedJaxpr) -> bool:
    """Whether a result of a traced function depends on its first argument."""
    reached = {traced.jaxpr.invars[0]}
    hit = lambda atoms: any(not isinstance(x, Literal) and x in reached for x in atoms)  # noqa: E731
    for equation in traced.jaxpr.eqns:
        if hit(equation.invars):
            reached.update(equation.outvars)
    return hit(traced.jaxpr.outvars)


def _wide_and_real(tree: PyTree) -> PyTree:
    """The numbers that the optimiser works on, in at least float32.

    Moments in bfloat16 would lose most of what is added to them. A complex array counts as its real
    and imaginary parts, `[2, …]`.
    """

    def one(x: Array) -> Array:
        x = jnp.stack([x.real, x.imag]) if jnp.iscomplexobj(x) else x
        return x.astype(wide(x.dtype))

    return jax.tree.map(one, tree)


def gradient_norm(grads: PyTree) -> Array:
    """The norm of the flat vector, which is what the optimiser clips."""
    return optax.tree.norm(ravel_pytree(_wide_and_real(grads))[0])


def _as_complex(steps: PyTree, params: PyTree) -> PyTree:
    """Join the two parts of the steps of complex parameters."""

    def one(step: Array, param: Array) -> Array:
        return lax.complex(step[0], step[1]) if jnp.iscomplexobj(param) else step

    return jax.tree.map(one, steps, params)
