"""How many bytes a trajectory takes, from its shapes: nothing is compiled or computed."""

import math
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from ._random import KeyLike, as_key, key as make_key
from ._rollout import Trajectory, init_rollout, require_positive, rollout
from ._types import Environment, Policy, PyTree


def transition_bytes(
    policy: Policy, env: Environment, num_steps: int, *, key: KeyLike | None = None
) -> float:
    """Bytes of a trajectory per transition: its size, over T · N.

    A rollout of T steps in N environments keeps `T * N * transition_bytes(policy, env, T)` bytes,
    exactly. `rlscan.Trajectory` has the formula, and what is not in it: N cancels out, and T
    counts only for the slots of final observations, and for a recurrent policy's first state.

    **Arguments:**

    - `policy`: an `eqx.Module` by the contract of `rlscan.Policy`.
    - `env`: anything by the contract of `rlscan.Environment`.
    - `num_steps`: T, in steps of each environment.
    - `key`: of the generator that the rollout draws from, whose keys are stored; of rlscan's own
        if not given.

    **Returns:** bytes per transition; not a whole number where T does not divide the rest.

    **Raises:** as `init_rollout` and `rollout`.
    """
    require_positive("num_steps", num_steps)
    some_key = make_key(0) if key is None else as_key(key)

    def one_environment(key: PRNGKeyArray) -> Trajectory:
        state = init_rollout(policy, env, num_envs=1, key=key)
        return rollout(policy, env, state, num_steps)[1]

    return array_bytes(eqx.filter_eval_shape(one_environment, some_key)) / num_steps


def array_bytes(tree: PyTree) -> int:
    """Bytes of the arrays of a tree, or of their shapes; a key's are those of its words."""

    def one(leaf: Any) -> int:
        is_array = isinstance(leaf, jax.ShapeDtypeStruct) or eqx.is_array(leaf)
        return math.prod(leaf.shape) * leaf.dtype.itemsize if is_array else 0

    return sum(map(one, jax.tree.leaves(tree)))
