"""Dataflow analysis of a jaxpr: which inputs each output depends on."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import or_
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from .._core.tree import is_key

# A set of inputs, and of other sources that the caller defines: bit i is set for the i-th.
Sources = int

# A value that may depend on anything gets the bit of the policy's key, so that it is never refused.
ANYTHING: Sources = 1

# `(sources of the key, outermost equation) -> sources` to add to the result of a draw.
OnDraw = Callable[[Sources, JaxprEqn], Sources]

# Primitives that turn key data into bits, and how many of their operands are the key. All of
# `jax.random` ends in the first two, whatever the generator, with typed and with raw keys.
_DRAWS = {
    "random_bits": 1,
    "random_gamma": 1,
    "rng_bit_generator": 1,
    "threefry2x32": 4,  # a bare hash; its counter is as good a source as its key
    "rng_uniform": 0,  # draws from the device's own stream
}


def flow(
    jaxpr: Jaxpr, sources: Sequence[Sources], on_draw: OnDraw, site: JaxprEqn | None = None
) -> list[Sources]:
    """The sources of each output, given those of each input; constants have none.

    The outputs of an unknown primitive depend on all its inputs, so the result may contain too many
    sources, but never too few.
    """
    known: dict[Any, Sources] = dict(zip(jaxpr.invars, sources, strict=True))

    def read(atom: Any) -> Sources:
        # Writes through a mutable reference are not tracked.
        if type(atom.aval).__name__ == "AbstractRef":
            return ANYTHING
        return 0 if isinstance(atom, Literal) else known.get(atom, 0)

    for eqn in jaxpr.eqns:
        outs = _flow_equation(eqn, [read(atom) for atom in eqn.invars], on_draw, site or eqn)
        known.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def union(sources: Sequence[Sources]) -> Sources:
    """All sources of several values."""
    return reduce(or_, sources, 0)


def _flow_equation(
    eqn: JaxprEqn, ins: list[Sources], on_draw: OnDraw, site: JaxprEqn
) -> list[Sources]:
    name, everything = eqn.primitive.name, union(ins)
    if name in _DRAWS:
        origin = union(ins[: _DRAWS[name]])
        return [everything | on_draw(origin, site)] * len(eqn.outvars)
    if name == "random_fold_in":
        # A stored key stays the same noise whatever counter is folded into it. Only `key` itself
        # makes it new.
        base, data = ins
        return [base | (data & ANYTHING) if base else data]
    if name in _RULES:
        try:
            flow_inside = _RULES[name](eqn)
        except (LookupError, AttributeError, TypeError, ValueError) as error:
            _warn_unknown(name, error)
            return [everything | ANYTHING] * len(eqn.outvars)
        return flow_inside(ins, on_draw, site)
    inner = inner_jaxprs(eqn)
    if len(inner) == 1 and len(inner[0].invars) == len(ins):
        outs = flow(inner[0], ins, on_draw, site)  # a call: jit, checkpoint, custom_jvp, …
        if len(outs) == len(eqn.outvars):
            return outs
    for jaxpr in inner:  # operands cannot be matched with its inputs
        everything |= union(flow(jaxpr, [everything] * len(jaxpr.invars), on_draw, site))
    return [everything] * len(eqn.outvars)


def _warn_unknown(name: str, error: Exception) -> None:
    warnings.warn(
        f"noise is not traced through `{name}`, which jax {jax.__version__} writes in a way that "
        f"this version of rlscan does not know ({type(error).__name__}: {error}); noise in it is "
        "not checked, and all else is",
        stacklevel=2,
    )


# How the sources of an equation's outputs follow from those of its inputs.
FlowInside = Callable[[list[Sources], OnDraw, JaxprEqn], list[Sources]]

# Rules for equations whose operands are not those of one inner jaxpr. They read an equation before
# anything flows, by what all versions of JAX have: inner jaxprs, and the shapes of operands.


def _flow_cond(eqn: JaxprEqn) -> FlowInside:
    branches = [_open(branch) for branch in eqn.params["branches"]]
    _require_inputs(branches, len(eqn.invars) - 1)

    def inside(ins: list[Sources], on_draw: OnDraw, site: JaxprEqn) -> list[Sources]:
        which, *operands = ins
        outs = [flow(branch, operands, on_draw, site) for branch in branches]
        return [which | union(out) for out in zip(*outs, strict=True)]

    return inside


def _flow_scan(eqn: JaxprEqn) -> FlowInside:
    jaxpr = _open(eqn.params["jaxpr"])
    _require_inputs([jaxpr], len(eqn.invars))
    # What is sliced or stacked has one axis less in the body.
    num_carry = _num_of_equal_rank(eqn.outvars, jaxpr.outvars)
    num_consts = _num_of_equal_rank(eqn.invars, jaxpr.invars) - num_carry
    if num_consts < 0:
        raise ValueError(f"a carry of {num_carry}, which is more than what is not sliced")

    def inside(ins: list[Sources], on_draw: OnDraw, site: JaxprEqn) -> list[Sources]:
        consts, rest = ins[:num_consts], ins[num_consts:]
        carry, xs = rest[:num_carry], rest[num_carry:]

        def body(carry: list[Sources], on_draw: OnDraw) -> list[Sources]:
            return flow(jaxpr, [*consts, *carry, *xs], on_draw, site)

        carry = _settle(lambda carry, on_draw: body(carry, on_draw)[: len(carry)], carry, on_draw)
        return [*carry, *body(carry, on_draw)[len(carry) :]]

    return inside


def _flow_while(eqn: JaxprEqn) -> FlowInside:
    cond, body = _open(eqn.params["cond_jaxpr"]), _open(eqn.params["body_jaxpr"])
    num_carry = len(eqn.outvars)
    num_cond, num_body = len(cond.invars) - num_carry, len(body.invars) - num_carry
    if min(num_cond, num_body) < 0 or len(eqn.invars) != num_cond + num_body + num_carry:
        raise ValueError(f"{len(eqn.invars)} operands")

    def inside(ins: list[Sources], on_draw: OnDraw, site: JaxprEqn) -> list[Sources]:
        cond_consts, rest = ins[:num_cond], ins[num_cond:]
        body_consts, carry = rest[:num_body], rest[num_body:]

        def once(carry: list[Sources], on_draw: OnDraw) -> list[Sources]:
            return flow(body, [*body_consts, *carry], on_draw, site)

        carry = _settle(once, carry, on_draw)
        # The number of iterations affects every output of the loop.
        goes_on = union(flow(cond, [*cond_consts, *carry], on_draw, site))
        return [goes_on | sources for sources in carry]

    return inside


_RULES = {"cond": _flow_cond, "scan": _flow_scan, "while": _flow_while}


def _open(jaxpr: Any) -> Jaxpr:
    """A jaxpr without its constants; JAX 0.11 has one class for both."""
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def _require_inputs(jaxprs: Sequence[Jaxpr], number: int) -> None:
    for jaxpr in jaxprs:
        if len(jaxpr.invars) != number:
            raise ValueError(f"{len(jaxpr.invars)} inputs for {number} operands")


def _num_of_equal_rank(outer: Sequence[Any], inner: Sequence[Any]) -> int:
    return sum(a.aval.ndim == b.aval.ndim for a, b in zip(outer, inner, strict=True))


def _settle(
    body: Callable[[list[Sources], OnDraw], list[Sources]], carry: list[Sources], on_draw: OnDraw
) -> list[Sources]:
    """The sources of a loop's carry, after any number of iterations.

    Draws are ignored at first, because the sources of a draw's key are known only when the carry no
    longer changes.
    """
    for draw in (lambda origin, site: 0, on_draw):
        before = None
        while carry != before:
            before = carry
            carry = [a | b for a, b in zip(carry, body(carry, draw), strict=True)]
    return carry


def inner_jaxprs(eqn: JaxprEqn) -> list[Jaxpr]:
    """The jaxprs in an equation's parameters, such as the branches of a `cond`."""
    return [inner.jaxpr for inner in closed_jaxprs(eqn)]


def closed_jaxprs(eqn: JaxprEqn) -> Iterator[ClosedJaxpr]:
    """The same, with their constants."""
    for value in eqn.params.values():
        for inner in value if isinstance(value, tuple | list) else (value,):
            if isinstance(inner, ClosedJaxpr):
                yield inner
            elif isinstance(inner, Jaxpr):
                yield ClosedJaxpr(inner, ())


# Comparison of two traces of one function.


def first_difference(
    short: ClosedJaxpr, long: ClosedJaxpr
) -> tuple[JaxprEqn | None, str, str] | None:
    """The first place at which `long` differs from `short`, of which it must be an extension.

    Operations, constants and outputs are compared. Returns the equation, or `None` if an output
    differs, and descriptions of what `short` and `long` have there.
    """
    others = _equations(long)
    for eqn, values in _equations(short):
        other, other_values = next(others, (None, []))
        if other is None or eqn.primitive is not other.primitive:
            return eqn, eqn.primitive.name, other.primitive.name if other else "nothing"
        for a, b in zip(values, other_values, strict=False):
            if not _same_constant(a, b):
                return eqn, _shortened(a), _shortened(b)
    outputs = (_constants(closed, closed.jaxpr.outvars) for closed in (short, long))
    for a, b in zip(*outputs, strict=False):
        if not _same_constant(a, b):
            return None, _shortened(a), _shortened(b)
    return None


def _equations(closed: ClosedJaxpr) -> Iterator[tuple[JaxprEqn, list[Any]]]:
    """Each equation with its constant operands; those of inner jaxprs follow their equation."""
    for eqn in closed.jaxpr.eqns:
        inner_jaxprs = list(closed_jaxprs(eqn))
        values = _constants(closed, eqn.invars)
        # Numbers that became static indices or shapes. The precision, a string or an enumeration,
        # is left out.
        values += [value for value in eqn.params.values() if _is_numeric(value)]
        for inner in inner_jaxprs:
            values += _constants(inner, inner.jaxpr.outvars)
        yield eqn, values
        for inner in inner_jaxprs:
            yield from _equations(inner)


def _constants(closed: ClosedJaxpr, atoms: Sequence[Any]) -> list[Any]:
    """The values of the atoms that are constants, `None` for the others."""
    consts = dict(zip(closed.jaxpr.constvars, closed.consts, strict=False))
    return [atom.val if isinstance(atom, Literal) else consts.get(atom) for atom in atoms]


def _is_numeric(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_numeric, value))
    return isinstance(value, int | float)


def _same_constant(a: Any, b: Any) -> bool:
    # The values of outer tracers are unknown, and comparing keys would run a computation.
    if a is b or any(isinstance(x, Tracer) or is_key(x) for x in (a, b)):
        return True
    if a is None or b is None or isinstance(a, tuple):
        return a == b
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and (a.dtype == object or a.tobytes() == b.tobytes())


def _shortened(constant: Any) -> str:
    text = str(constant).replace("\n", " ")
    return text if len(text) <= 60 else f"{text[:59]}…"
