"""Replay: what a policy says of recorded steps, with the noise that it acted with."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from .._core.scan import filter_scan
from .._core.tree import map_arrays, strong, unused, where
from .._core.types import Policy, PyTree, SequencePolicy
from .layout import shorter_axis_first
from .state import Trajectory, is_recurrent


def replay(
    policy: Policy, trajectory: Trajectory
) -> tuple[Float[Array, "*T_N"], Float[Array, "*T_N"], PyTree]:
    """Log-probability of the recorded actions, entropy and value, under the recorded keys.

    Each step calls the policy with the very key that it acted with, so that every dropout mask
    and every other noise is the same: with unchanged parameters the importance ratio is 1.
    Differentiable in `policy`.

    **Arguments:**

    - `policy`: the policy that acted, or a later version of it.
    - `trajectory`: from `rollout`. For a feed-forward policy any part of it in any order, with
        leaves `[B, …]` or `[T, N, …]`; for a recurrent one all T steps of n environments, which
        are computed one after the other, or all at once by a `rlscan.SequencePolicy`.

    **Returns:** `(log_prob, entropy, value)` of the trajectory's batch shape: log π(a | s, key) and
    entropy in nats; `value` is whatever pytree the policy returns.

    **Raises:** `ValueError` if a recurrent policy is given steps that are no `[T, n]` sequences.

    Source: Hausknecht & Wagener, *Consistent Dropout for Policy Gradient Reinforcement Learning*,
    2022, arXiv:2202.11818. They store the masks of each dropout layer; here it is one key, which
    covers any source of noise.
    """
    if is_recurrent(policy):
        return _replay_sequences(policy, trajectory)

    def one(policy: Policy, step: _Step) -> tuple[Array, Array, PyTree]:
        return _evaluate(policy, step, policy.initial_state())[0]

    return _in_one_axis(one, policy, _steps(trajectory), trajectory.policy_key.shape)


def _in_one_axis(f: Callable, policy: Policy, steps: PyTree, batch: tuple[int, ...]) -> PyTree:
    """`f(policy, step)` of a batch of steps.

    Of one axis, so that a mask is computed row by row, from one key after another: with two the
    compiler may turn rows and columns, and derive the key for every unit.
    """
    flat = map_arrays(lambda x: x.reshape(-1, *x.shape[len(batch) :]), steps)
    results = _of_steps(policy, flat, f=f)
    return map_arrays(lambda x: x.reshape(*batch, *x.shape[1:]), results)


_BLOCK = 8192  # steps


def _at_once(policy: Policy, steps: PyTree, f: Callable) -> PyTree:
    return eqx.filter_vmap(f, in_axes=(None, eqx.if_array(0)))(policy, steps)


def _in_blocks(policy: Policy, steps: PyTree, *, f: Callable) -> PyTree:
    size = len(jax.tree.leaves(eqx.filter(steps, eqx.is_array))[0])
    length = next((n for n in range(min(_BLOCK, size), _BLOCK // 4, -1) if size % n == 0), size)
    if length == size:
        return _at_once(policy, steps, f)
    blocks = map_arrays(lambda x: x.reshape(-1, length, *x.shape[1:]), steps)
    _, results = filter_scan(lambda _, block: (None, _at_once(policy, block, f)), None, blocks)
    return map_arrays(lambda x: x.reshape(size, *x.shape[2:]), results)


# In blocks where steps are many, as a layer's outputs for 131,072 of them fit no cache; but at once
# where a gradient is taken, which keeps what each block was computed from, and adds up its own.
# What the one and the other gain says `python -m benchmarks --only levers`.
_of_steps = eqx.filter_custom_jvp(_in_blocks)


@_of_steps.def_jvp
def _differentiated(primals: tuple, tangents: tuple, *, f: Callable) -> tuple[PyTree, PyTree]:
    of_policy, of_steps = tangents
    tangents = map_arrays(shorter_axis_first, of_policy), of_steps
    return eqx.filter_jvp(partial(_at_once, f=f), primals, tangents)


class _Step(eqx.Module):
    """The part of a trajectory that one call of the policy takes."""

    observation: PyTree
    action: PyTree
    policy_key: Key[Array, "*batch"]


def _evaluate(policy: Policy, step: _Step, state: PyTree) -> tuple[tuple, PyTree]:
    distribution, value, state = policy(step.observation, state, key=step.policy_key)
    return (distribution.log_prob(step.action), distribution.entropy(), value), state


def policy_states(policy: Policy, trajectory: Trajectory) -> PyTree:
    """The policy state that each step began with, `[T, N, …]`; no leaves if feed-forward."""

    def before(policy: Policy, step: _Step, state: PyTree) -> tuple[PyTree, PyTree]:
        return state, _evaluate(policy, step, state)[1]

    if not is_recurrent(policy):
        return policy.initial_state()
    return _run_sequences(before, policy, trajectory)


def _replay_sequences(policy: Policy, trajectory: Trajectory) -> tuple[Array, Array, PyTree]:
    if trajectory.policy_key.ndim != 2:
        raise ValueError(
            f"{type(policy).__name__} is recurrent, so it is replayed in sequences of steps "
            f"[T, n], but the batch shape is {trajectory.policy_key.shape}; take minibatches "
            "over environments: jax.tree.map(lambda x: x[:, environments], trajectory)"
        )
    if is_unrolled(policy):
        return _unroll_sequences(policy, trajectory)
    return _run_sequences(_evaluate, policy, trajectory)


def is_unrolled(policy: Policy) -> TypeGuard[SequencePolicy]:
    """Whether replay computes the steps of a sequence at once, see `rlscan.SequencePolicy`.

    Not by `isinstance`, so that a wrapper may have the two methods where its policy has them.
    """
    return hasattr(policy, "unroll") and hasattr(policy, "decide")


def _unroll_sequences(
    policy: SequencePolicy, trajectory: Trajectory
) -> tuple[Array, Array, PyTree]:
    """By a policy's own `unroll`, one sequence; what it says of each step is then a batch."""

    def unroll(sequence: _Step, done: Array, state: PyTree) -> PyTree:
        return policy.unroll(sequence.observation, state, done, key=sequence.policy_key)

    def one(policy: Any, step: tuple[PyTree, _Step]) -> tuple[Array, Array, PyTree]:
        features, recorded = step
        # Each half of the policy draws from a part of the key of its own.
        key = jax.random.clone(recorded.policy_key)
        distribution, value = policy.decide(features, recorded.observation, key=key)
        return distribution.log_prob(recorded.action), distribution.entropy(), value

    done = trajectory.terminated | trajectory.truncated
    steps, first = _steps(trajectory), _first_state(trajectory)
    sequences = unused(map_arrays(lambda x: jnp.swapaxes(x, 0, 1), (steps, done)))
    features = eqx.filter_vmap(unroll, out_axes=1)(*sequences, first)
    return _in_one_axis(one, policy, (features, steps), trajectory.policy_key.shape)


def _run_sequences(f: Callable, policy: Policy, trajectory: Trajectory) -> PyTree:
    """Runs `f(policy, step, state) -> (output, state)` through `[T, n]` steps, each sequence from
    the state that it began in, reset where an episode ended."""

    def one(state: PyTree, at_t: tuple[_Step, Array]) -> tuple[PyTree, PyTree]:
        step, done = at_t
        output, state = f(policy, step, state)
        return where(done, strong(policy.initial_state()), state), output

    done = trajectory.terminated | trajectory.truncated
    first = _first_state(trajectory)
    return filter_scan(eqx.filter_vmap(one), first, (_steps(trajectory), done))[1]


def _first_state(trajectory: Trajectory) -> PyTree:
    return map_arrays(lambda leaf: leaf[0], trajectory.initial_policy_state)


def _steps(trajectory: Trajectory) -> _Step:
    # The recorded keys are used once more, and on purpose.
    key = jax.random.clone(trajectory.policy_key)
    return _Step(trajectory.observation, trajectory.action, key)
