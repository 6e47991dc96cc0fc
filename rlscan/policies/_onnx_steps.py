"""`steps_of`: a program of JAX as a flat list of primitives that ONNX has a counterpart of."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from .._check.dataflow import closed_jaxprs


@dataclasses.dataclass(eq=False)
class Value:
    """An array of a program for one example."""

    shape: tuple[int, ...]
    dtype: Any
    step: "Step | None" = None  # that computes it; none computes inputs and constants
    constant: Any = None  # its elements, if they are known

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
        if name in _COMPOSED:
            shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in ins]
            inner = jax.make_jaxpr(_COMPOSED[name](eqn.params))(*shapes)
            outs = _write_out(inner.jaxpr, inner.consts, ins, steps)
        elif name in _CALLS:
            (inner,) = closed_jaxprs(eqn)
            outs = _write_out(inner.jaxpr, inner.consts, ins, steps)
        else:
            step = Step(eqn.primitive, eqn.params, ins, [])
            step.outputs = [Value(v.aval.shape, v.aval.dtype, step) for v in eqn.outvars]  # pyright: ignore
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


_CALLS = {
    *("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_vmap_call"),
}


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
