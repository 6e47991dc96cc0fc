"""A check of side effects, such as those of callbacks, in an environment or a policy."""

from collections.abc import Iterator

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun
from jax.extend.source_info_util import summarize

from .dataflow import inner_jaxprs


def check_effects(name: str, program: ClosedJaxpr) -> None:
    """Refuse side effects that JAX cannot map over environments.

    A rollout maps its step, and JAX has no rule for some effects, such as that of an
    `io_callback` in a branch of `lax.cond`. Others, like `jax.debug.print`, pass.

    **Arguments:**

    - `name`: what the program is a call of.
    - `program`: its trace for one environment.

    **Raises:** `ValueError` with the effects and their places in the code.
    """
    if not program.effects:
        return
    inputs = [jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for x in program.in_avals]
    try:
        jax.eval_shape(jax.vmap(jaxpr_as_fun(program)), *inputs)
    except Exception as error:
        found = sorted({_describe(eqn) for eqn in _effectful(program.jaxpr)})
        raise ValueError(
            f"{name} is mapped over environments, so its side effects must allow it, got "
            f"{', and '.join(found)}, which JAX refuses ({str(error).rstrip('.')}); count in the "
            "state instead, print with jax.debug.print, and call a function that only computes "
            "with jax.pure_callback"
        ) from error


def _effectful(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """The equations with effects, without those that only contain one."""
    for eqn in jaxpr.eqns:
        inner = [found for jaxpr in inner_jaxprs(eqn) for found in _effectful(jaxpr)]
        if inner:
            yield from inner
        elif eqn.effects:
            yield eqn


def _describe(eqn: JaxprEqn) -> str:
    effects = " and ".join(sorted({type(effect).__name__ for effect in eqn.effects}))
    return f"{eqn.primitive.name} ({effects}) at {summarize(eqn.source_info)}"
