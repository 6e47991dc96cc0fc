"""`steps_of`: a program of JAX as a flat list of primitives that ONNX has a counterpart of."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from .._check.dataflow import closed_jaxprs


@dataclasses.dataclass(eq=False)
class Value:
    """An array of a program for one example."""

    shape: tuple[int, ...]
    dtype: Any
    step: "Step | None" = None  # that computes it; none computes inputs and constants
    constant: Any = None  # its elements, if they are known
    varies: bool = False  # whether it depends on the inputs of the program

    @property
    def is_known(self) -> bool:
        return self.constant is not None


@dataclasses.dataclass(eq=False)
class Step:
    """A primitive that is applied to values."""

    primitive: Any
    params: dict[str, Any]
    inputs: list[Value]
    outputs: list[Value]

    @property
    def name(self) -> str:
        return self.primitive.name

    def fold(self) -> None:
        """Compute the outputs of known inputs."""
        found = self.apply([x.constant for x in self.inputs])
        for output, constant in zip(self.outputs, found, strict=True):
            output.constant = constant

    def apply(self, inputs: Sequence[Any]) -> list[Any]:
        """Apply the primitive to arrays."""
        found = self.primitive.bind(*inputs, **self.params)
        return list(found) if self.primitive.multiple_results else [found]


def steps_of(program: ClosedJaxpr, inputs: Sequence[Value]) -> tuple[list[Step], list[Value]]:
    """Write out the calls in a program, and the primitives that are composed of others.

    What the outputs do not depend on is left out, and what depends on constants alone is computed.

    **Returns:** `(steps, outputs)`, the steps in the order of computation.
    """
    steps: list[Step] = []
    outputs = _write_out(program.jaxpr, program.consts, inputs, steps)
    needed, kept = set(outputs), []
    for step in reversed(steps):
        if needed & set(step.outputs):
            needed |= set(step.inputs)
            kept.append(step)
    remaining = []
    for step in reversed(kept):
        if all(x.is_known for x in step.inputs):
            step.fold()
        else:
            remaining.append(step)
    return remaining, outputs


def _write_out(
    jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Value], steps: list[Step]
) -> list[Value]:
    """Append the steps of a jaxpr, and return its outputs."""
    known: dict[Any, Value] = dict(zip(jaxpr.constvars, map(_constant, consts), strict=True))
    known |= zip(jaxpr.invars, inputs, strict=True)

    def read(atom: Any) -> Value:
        return _constant(atom.val) if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        name, ins = eqn.primitive.name, [read(atom) for atom in eqn.invars]
        if (composed := _composition(eqn, ins)) is not None:
            inner = jax.make_jaxpr(composed)(*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in ins))
            outs = _write_out(inner.jaxpr, inner.consts, ins, steps)
        elif name in _CALLS:
            (inner,) = closed_jaxprs(eqn)
            outs = _write_out(inner.jaxpr, inner.consts, ins, steps)
        else:
            step = Step(eqn.primitive, eqn.params, ins, [])
            varies = any(x.varies for x in ins)
            step.outputs = [
                Value(v.aval.shape, v.aval.dtype, step, varies=varies)  # pyright: ignore
                for v in eqn.outvars
            ]
            outs = step.outputs
            steps.append(step)
        known |= zip(eqn.outvars, outs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _constant(x: Any) -> Value:
    if not isinstance(
        x, jax.Array | np.ndarray
    ):  # a number, which newer versions of JAX give a dtype
        x = np.asarray(x, getattr(x, "dtype", None))
    return Value(tuple(x.shape), x.dtype, constant=x)


def _composition(eqn: JaxprEqn, inputs: Sequence[Value]) -> Callable | None:
    """A function of other primitives that computes an equation, if there is a need for one."""
    name, params = eqn.primitive.name, eqn.params
    if name in ("gather", "scatter"):  # ONNX moves elements by constant indices
        moves = {"gather": _take, "scatter": _put}[name]
        return moves(params, inputs) if inputs[1].varies else None
    return _COMPOSED[name](params) if name in _COMPOSED else None


_CALLS = {
    *("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_vmap_call"),
}


def _take(params: dict[str, Any], inputs: Sequence[Value]) -> Callable | None:
    """`x[:, indices]`, or at another axis, as a choice among all; `None` for another `gather`."""
    numbers, sizes = params["dimension_numbers"], list(params["slice_sizes"])
    (axis, *others), shape = numbers.start_index_map, list(inputs[0].shape)
    whole = [*shape[:axis], 1, *shape[axis + 1 :]]
    if others or numbers.collapsed_slice_dims != (axis,) or sizes != whole:
        return None

    def take(x: Any, indices: Any) -> Any:
        index = jnp.clip(indices[..., 0], 0, shape[axis] - 1)  # rlscan's are inside
        is_it = index[..., None] == jnp.arange(shape[axis])
        rest = x.ndim - 1
        is_it = is_it.reshape(*is_it.shape, *[1] * rest)
        found = jnp.where(is_it, jnp.moveaxis(x, axis, 0), jnp.zeros_like(x, shape=())).sum(
            axis=index.ndim, dtype=x.dtype
        )
        return jnp.moveaxis(found, range(index.ndim, found.ndim), numbers.offset_dims)

    return take


def _put(params: dict[str, Any], inputs: Sequence[Value]) -> Callable | None:
    """`x.at[:, index].set(y)`, or at another axis, as a choice; `None` for another `scatter`."""
    numbers, shape = params["dimension_numbers"], inputs[0].shape
    (axis, *others) = numbers.scatter_dims_to_operand_dims
    window = tuple(range(len(shape) - 1))
    is_one = inputs[1].shape == (1,) and numbers.update_window_dims == window
    if others or numbers.inserted_window_dims != (axis,) or not is_one:
        return None

    def put(x: Any, index: Any, y: Any) -> Any:
        is_it = jnp.arange(shape[axis]) == index
        is_it = is_it.reshape(-1, *[1] * (x.ndim - axis - 1))
        return jnp.where(is_it, jnp.expand_dims(y, axis), x)

    return put


def _lgamma(x: Any) -> Any:
    """log Γ(x) for x > 0, by Lanczos's approximation with g = 7 and nine terms."""
    series = jnp.full_like(x, _LANCZOS[0])
    for i, coefficient in enumerate(_LANCZOS[1:]):
        series = series + coefficient / (x + i)
    # Γ(x) = √(2π) t^(x − ½) e^(−t) · series, with t = x + g − ½.
    t = x + 6.5
    return 0.5 * math.log(2 * math.pi) + (x - 0.5) * jnp.log(t) - t + jnp.log(series)


# The coefficients of Godfrey (2001), as many libraries have them, XLA among them.
_LANCZOS = (
    0.99999999999980993,
    676.5203681218851,
    -1259.1392167224028,
    771.32342877765313,
    -176.61502916214059,
    12.507343278686905,
    -0.13857109526572012,
    9.9843695780195716e-6,
    1.5056327351493116e-7,
)


def _all(params: dict[str, Any], reduce: Callable) -> Callable:
    return lambda x: reduce(x.astype(jnp.int32), axis=params["axes"]).astype(bool)


# Primitives by others: from the parameters, a function of the operands.
_COMPOSED: dict[str, Callable[[dict[str, Any]], Callable]] = {
    "square": lambda p: lambda x: x * x,
    "rsqrt": lambda p: lambda x: 1 / lax.sqrt(x),
    "integer_pow": lambda p: lambda x: lax.pow(x, jnp.full_like(x, p["y"])),
    "exp2": lambda p: lambda x: lax.exp(math.log(2) * x),
    "log1p": lambda p: lambda x: lax.log(1 + x),
    "expm1": lambda p: lambda x: lax.exp(x) - 1,
    "erfc": lambda p: lambda x: 1 - lax.erf(x),
    "lgamma": lambda p: _lgamma,
    "clamp": lambda p: lambda low, x, high: jnp.minimum(jnp.maximum(x, low), high),
    "ne": lambda p: lambda x, y: ~lax.eq(x, y),
    "is_finite": lambda p: lambda x: lax.eq(x - x, jnp.zeros_like(x)),
    "reduce_and": lambda p: _all(p, jnp.min),
    "reduce_or": lambda p: _all(p, jnp.max),
    "add_any": lambda p: lambda x, y: x + y,
}
