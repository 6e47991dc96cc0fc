"""Lever: a policy is called for many steps in blocks that fit the cache, except under a gradient.

`python -m benchmarks --only levers` measures both choices.
"""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax

from .._core.scan import filter_scan
from .._core.tree import map_arrays
from .._core.types import Policy, PyTree
from .layout import shorter_axis_first

BLOCK = 8192  # steps


def over_steps(f: Callable, policy: Policy, steps: PyTree, batch: tuple[int, ...]) -> PyTree:
    """Compute `f(policy, step)` for each step of a batch of any shape.

    The batch is flattened to one axis, so that masks are computed row by row, one key after
    another. With two axes the compiler may swap rows and columns, and derive the key again for
    every unit.
    """
    flat = map_arrays(lambda x: x.reshape(-1, *x.shape[len(batch) :]), steps)
    results = _over_steps(policy, flat, f=f)
    return map_arrays(lambda x: x.reshape(*batch, *x.shape[1:]), results)


def _at_once(policy: Policy, steps: PyTree, f: Callable) -> PyTree:
    return eqx.filter_vmap(f, in_axes=(None, eqx.if_array(0)))(policy, steps)


def _in_blocks(policy: Policy, steps: PyTree, *, f: Callable) -> PyTree:
    size = len(jax.tree.leaves(eqx.filter(steps, eqx.is_array))[0])
    length = next((n for n in range(min(BLOCK, size), BLOCK // 4, -1) if size % n == 0), size)
    if length == size:
        return _at_once(policy, steps, f)
    blocks = map_arrays(lambda x: x.reshape(-1, length, *x.shape[1:]), steps)
    _, results = filter_scan(lambda _, block: (None, _at_once(policy, block, f)), None, blocks)
    return map_arrays(lambda x: x.reshape(size, *x.shape[2:]), results)


# Values are computed in blocks, because a layer's outputs for 100,000 steps fit no cache. A
# gradient is computed for all steps at once: by blocks it would store the inputs of each block and
# accumulate a gradient per block.
_over_steps = eqx.filter_custom_jvp(_in_blocks)


@_over_steps.def_jvp
def _differentiated(primals: tuple, tangents: tuple, *, f: Callable) -> tuple[PyTree, PyTree]:
    policy_tangent, steps_tangent = tangents
    tangents = map_arrays(shorter_axis_first, policy_tangent), steps_tangent
    return eqx.filter_jvp(partial(_at_once, f=f), primals, tangents)
