"""Replay: call a policy for recorded steps again, with the noise that it acted with."""

from collections.abc import Callable
from typing import Any, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from .._core.program import call_program
from .._core.scan import filter_scan
from .._core.tree import as_strong_arrays, clone_keys, map_arrays, where
from .._core.types import Policy, PyTree, SequencePolicy
from .blocks import over_steps
from .state import Trajectory, Transition, is_recurrent


def replay(
    policy: Policy, trajectory: Trajectory | Transition
) -> tuple[Float[Array, "*T_N"], Float[Array, "*T_N"], PyTree]:
    """Compute log-probability of the recorded actions, entropy and value, with the recorded keys.

    Each step calls the policy with the same key that it acted with, so every dropout mask and all
    other noise is the same. With unchanged parameters the importance ratio is therefore 1.
    Differentiable in `policy`.

    **Arguments:**

    - `policy`: the policy that acted, or a later version of it.
    - `trajectory`: from `rollout`. For a feed-forward policy any part of it in any order, with
        leaves `[B, …]` or `[T, N, …]`. For a recurrent policy all T steps of n environments; they
        are computed one after another, or all at once by a `rlscan.SequencePolicy`.

    **Returns:** `(log_prob, entropy, value)` with the trajectory's batch shape: log π(a | s, key)
    and entropy in nats; `value` is whatever pytree the policy returns.

    **Raises:** `ValueError` if a recurrent policy is given steps that are not `[T, n]` sequences.

    Source: Hausknecht & Wagener, *Consistent Dropout for Policy Gradient Reinforcement Learning*,
    2022, arXiv:2202.11818. They store the mask of each dropout layer. Here it is one key, which
    covers any source of noise.
    """
    if is_recurrent(policy):
        return call_program(_replay_sequences, policy, trajectory)

    def one(policy: Policy, call: RecordedCall) -> tuple[Array, Array, PyTree]:
        return _call_again(policy, call, policy.initial_state())[0]

    return over_steps(one, policy, _recorded_calls(trajectory), trajectory.policy_key.shape)


class RecordedCall(eqx.Module):
    """The part of a transition that calling the policy again needs."""

    observation: PyTree
    action: PyTree
    policy_key: Key[Array, "*batch"]


def _recorded_calls(trajectory: Transition) -> RecordedCall:
    # Cloned, because the recorded keys are used a second time on purpose.
    key = jax.random.clone(trajectory.policy_key)
    return RecordedCall(trajectory.observation, trajectory.action, key)


def _call_again(policy: Policy, call: RecordedCall, state: PyTree) -> tuple[tuple, PyTree]:
    distribution, value, state = policy(call.observation, state, key=call.policy_key)
    return (distribution.log_prob(call.action), distribution.entropy(), value), state


def policy_states(policy: Policy, trajectory: Trajectory) -> PyTree:
    """The policy state before each step, `[T, N, …]`; no leaves for a feed-forward policy."""

    def before(policy: Policy, call: RecordedCall, state: PyTree) -> tuple[PyTree, PyTree]:
        return state, _call_again(policy, call, state)[1]

    if not is_recurrent(policy):
        return policy.initial_state()
    return _run_sequences(before, policy, trajectory)


def is_unrolled(policy: Policy) -> TypeGuard[SequencePolicy]:
    """Whether replay computes the steps of a sequence at once, see `rlscan.SequencePolicy`.

    Not an `isinstance`, so that a wrapper has the two methods exactly if its inner policy has them.
    """
    return hasattr(policy, "unroll") and hasattr(policy, "decide")


def _replay_sequences(policy: Policy, trajectory: Any) -> tuple[Array, Array, PyTree]:
    if trajectory.policy_key.ndim != 2:
        raise ValueError(
            f"{type(policy).__name__} is recurrent, so it is replayed in sequences of steps "
            f"[T, n], but the batch shape is {trajectory.policy_key.shape}; take minibatches "
            "over environments: jax.tree.map(lambda x: x[:, environments], trajectory)"
        )
    if is_unrolled(policy):
        return _unroll_sequences(policy, trajectory)
    return _run_sequences(_call_again, policy, trajectory)


def _unroll_sequences(
    policy: SequencePolicy, trajectory: Trajectory
) -> tuple[Array, Array, PyTree]:
    """Replay by the policy's own `unroll`, and then `decide` for all steps as one batch."""

    def unroll(sequence: RecordedCall, done: Array, state: PyTree) -> PyTree:
        return policy.unroll(sequence.observation, state, done, key=sequence.policy_key)

    def one(policy: Any, step: tuple[PyTree, RecordedCall]) -> tuple[Array, Array, PyTree]:
        features, call = step
        # Cloned: `unroll` and `decide` draw from different parts of the same key.
        key = jax.random.clone(call.policy_key)
        distribution, value = policy.decide(features, call.observation, key=key)
        return distribution.log_prob(call.action), distribution.entropy(), value

    done = trajectory.terminated | trajectory.truncated
    calls, first = _recorded_calls(trajectory), _first_state(trajectory)
    sequences = map_arrays(lambda x: jnp.swapaxes(x, 0, 1), clone_keys((calls, done)))
    features = eqx.filter_vmap(unroll, out_axes=1)(*sequences, first)
    return over_steps(one, policy, (features, calls), trajectory.policy_key.shape)


def _run_sequences(f: Callable, policy: Policy, trajectory: Trajectory) -> PyTree:
    """Run `f(policy, call, state) -> (output, state)` through `[T, n]` steps.

    Each sequence starts from its recorded first state, and the state is reset after each step that
    ended an episode.
    """

    def one(state: PyTree, at_t: tuple[RecordedCall, Array]) -> tuple[PyTree, PyTree]:
        call, done = at_t
        output, state = f(policy, call, state)
        return where(done, as_strong_arrays(policy.initial_state()), state), output

    done = trajectory.terminated | trajectory.truncated
    first = _first_state(trajectory)
    return filter_scan(eqx.filter_vmap(one), first, (_recorded_calls(trajectory), done))[1]


def _first_state(trajectory: Trajectory) -> PyTree:
    return map_arrays(lambda leaf: leaf[0], trajectory.initial_policy_state)
