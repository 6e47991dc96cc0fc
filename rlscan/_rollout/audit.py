"""The audit: whether the ratio is 1 before any gradient step, and if not, why."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._core.environment import action_space_of, reset_env
from .._core.spaces import is_box, legal_action, space_leaves
from .._core.tree import as_strong_arrays
from .._core.types import Environment, Policy, PyTree
from ..nn._statistics import stateful_layers
from ..random._keys import key as make_key
from .replay import is_unrolled, policy_states, replay
from .state import Trajectory

TOLERANCES = {"discrete": 1e-5, "continuous": 1e-4, "unrolled": 1e-4}
"""Tolerances of `audit_error` in float32: rounding, which for a Gaussian grows as 1/σ.

A `rlscan.SequencePolicy` computes all steps at once and so sums in another order than the rollout.
A transformer showed 1.4e-5 over 780 updates, while other masks gave more than 1e-2.

A policy that computes in 16 bits may differ by the rounding of its logits, a relative 2⁻⁸ in
bfloat16 and 2⁻¹¹ in float16, on hardware where the order of a sum depends on the batch. For logits
up to 10 use `strict=0.05` and `strict=0.01`. On a CPU, small networks gave 0 over 40 updates.
"""

LEAST_TOLERANCE = min(TOLERANCES.values())

State = TypeVar("State")
Metrics = TypeVar("Metrics", bound=dict[str, Any])


class AuditError(RuntimeError):
    """The policy of an update differs from the one that acted, before any gradient step."""

    run: int | None = None
    """The index of the run, if several are trained side by side."""


def explain_ratio(
    policy: Policy,
    env: Environment,
    trajectory: Trajectory,
    log_prob: Float[Array, "T N"] | None = None,
    *,
    tolerance: float | None = None,
) -> str | None:
    """Find why an update's ratio is not 1 before its first gradient step; `None` if it is.

    Replays the trajectory in several wrong ways, and names the one that explains the difference.
    It compares numbers, so do not use it under `jit`.

    **Arguments:**

    - `policy`: the policy that acted, as it is before the update.
    - `env`: the environment that it acted in.
    - `trajectory`: from `rollout`, `[T, N, …]`.
    - `log_prob`: the log-probabilities of the recorded actions as the loss under suspicion
        computes them; by default those of `rlscan.replay`.
    - `tolerance`: largest allowed |Δ log π| / max(1, |log π|); by default that of `strict`.
    """
    if tolerance is None:
        tolerance = _tolerance(policy, trajectory.action)

    def same(a: Array, b: Array) -> bool:
        return float(relative_error(a - b, b)) <= tolerance

    def alike(a: Array, b: Array) -> bool:
        """Like `same`, but NaN equals NaN: a Beta has no density outside (0, 1)."""
        both_nan = jnp.isnan(a) & jnp.isnan(b)
        return same(jnp.where(both_nan, 0, a), jnp.where(both_nan, 0, b))

    replayed = eqx.filter_jit(replay)(policy, trajectory)[0]
    # Either the loss disagrees with replay, or replay disagrees with the rollout.
    loss_is_wrong = same(replayed, trajectory.log_prob)
    if loss_is_wrong and (log_prob is None or same(log_prob, replayed)):
        return None
    wrong = log_prob if loss_is_wrong and log_prob is not None else replayed
    right = replayed if loss_is_wrong else trajectory.log_prob
    for cause, changed_policy, changed_trajectory in _suspects(policy, env, trajectory):
        changed = eqx.filter_jit(replay)(changed_policy, changed_trajectory)[0]
        if alike(changed, wrong if loss_is_wrong else right):
            return cause
    if loss_is_wrong:
        return _STATISTICS_IN_LOSS if stateful_layers(policy) else _WRONG_KEYS
    # Traced again: whatever a policy draws elsewhere than from its key is now another constant.
    if not same(eqx.filter_jit(lambda p, t: replay(p, t))(policy, trajectory)[0], replayed):
        return _HIDDEN_RANDOMNESS
    return _LOW_PRECISION if _computes_in_16_bits(policy, trajectory) else _STALE


def failed_audit(audit_error: Any, tolerance: float) -> np.ndarray | np.bool_:
    """Where `audit_error`, on the host, exceeds the tolerance; NaN fails too."""
    return ~(np.asarray(audit_error) <= tolerance)


def with_audit(
    updates: Iterable[tuple[State, Metrics]], *, tolerance: float = LEAST_TOLERANCE
) -> Iterator[tuple[State, Metrics]]:
    """Stop a training loop when an update fails the audit.

    For any iterator whose metrics have an `"audit_error"`: the largest |Δ log π| / max(1, |log π|)
    between the rollout and the loss before the first gradient step, `[]` or `[R]`. `rlscan.train`
    has `strict`, which also finds the cause; for a loop of your own `rlscan.explain_ratio` does.

    **Arguments:**

    - `updates`: yields `(state, metrics)`.
    - `tolerance`: the largest error allowed, by default that for discrete actions in float32.

    **Returns:** the same iterator.

    **Raises:** `rlscan.AuditError`, after the failing update was handed over.
    """
    for i, (state, metrics) in enumerate(updates):
        yield state, metrics
        if failed_audit(metrics["audit_error"], tolerance).any():
            raise AuditError(
                f"update {i + 1} of this loop: before its first gradient step log π is off by "
                f"{np.max(metrics['audit_error']):.2g} (relative), but {tolerance:g} is allowed; "
                "rlscan.explain_ratio finds the cause"
            )


def audit_tolerance(policy: Policy, env: Environment, generator: Any = "mix32") -> float:
    """The default tolerance of `strict` for the kind of actions that the policy samples.

    `generator` is that of the run: an environment may draw with its keys alone.
    """

    def sample(key: PRNGKeyArray) -> PyTree:
        reset_key, policy_key, action_key = jax.random.split(key, 3)
        observation = reset_env(env, reset_key)[0]
        state = as_strong_arrays(policy.initial_state())
        distribution, _, _ = policy(observation, state, key=policy_key)
        return distribution.sample(seed=action_key)

    return _tolerance(policy, eqx.filter_eval_shape(sample, make_key(0, generator=generator)))


def _tolerance(policy: Policy, action: PyTree) -> float:
    if is_unrolled(policy):
        return TOLERANCES["unrolled"]
    is_discrete = all(jnp.issubdtype(a.dtype, jnp.integer) for a in jax.tree.leaves(action))
    return TOLERANCES["discrete" if is_discrete else "continuous"]


_DROPOUT_OFF = (
    "dropout was on in one of rollout and update and off in the other; "
    "call eqx.nn.inference_mode for both or for neither"
)
_CLIPPED = (
    "clipped actions: one of the log-probabilities is that of the action that was sent, not of the "
    "one that was sampled; keep the sample, rlscan sends its legal form"
)
_STATISTICS_IN_LOSS = (
    "batch statistics, or statistics that moved too early: the policy has layers that keep some, "
    "and the loss uses others than the rollout did; use rlscan.nn.WithStatistics and rlscan.replay"
)
_WRONG_KEYS = (
    "wrong keys: with the recorded keys the policy repeats its log-probabilities, but the loss "
    "draws other noise; call rlscan.replay with the trajectory's own policy_key"
)
_HIDDEN_RANDOMNESS = (
    "randomness that is not drawn from `key` (NumPy's, or a key made inside of the policy): two "
    "replays differ; draw it from `key`"
)
_LOW_PRECISION = (
    "rounding: the policy computes in 16 bits; allow for it, such as strict=0.05, or compute the "
    "distribution in float32"
)
_STALE = (
    "stale statistics or other parameters: the policy replays alike again and again, but not as it "
    "acted; let parameters and statistics move only after the rollout was replayed"
)


def _suspects(
    policy: Policy, env: Environment, trajectory: Trajectory
) -> list[tuple[str, Policy, Trajectory]]:
    """Possible mistakes, each with the policy and trajectory whose replay makes it."""
    suspects = [(_DROPOUT_OFF, eqx.nn.inference_mode(policy), trajectory)]
    if any(is_box(leaf) for _, leaf in space_leaves(action_space_of(env))):
        sent = eqx.filter_jit(_sent_actions)(policy, env, trajectory)
        sent_trajectory = eqx.tree_at(lambda t: t.action, trajectory, sent)
        suspects.append((_CLIPPED, policy, sent_trajectory))
    return suspects


def _sent_actions(policy: Policy, env: Environment, trajectory: Trajectory) -> PyTree:
    """The actions that the environment was sent, `[T, N, …]`."""

    def one(observation: PyTree, state: PyTree, action: PyTree, key: PRNGKeyArray) -> PyTree:
        distribution, _, _ = policy(observation, state, key=key)
        return legal_action(action_space_of(env), action, distribution)

    return eqx.filter_vmap(eqx.filter_vmap(one))(
        trajectory.observation,
        policy_states(policy, trajectory),
        trajectory.action,
        jax.random.clone(trajectory.policy_key),
    )


def _computes_in_16_bits(policy: Policy, trajectory: Trajectory) -> bool:
    program = str(eqx.filter_make_jaxpr(replay)(policy, trajectory)[0])
    return "bf16[" in program or ":f16[" in program


def relative_error(
    log_ratio: Float[Array, "*batch"], old_log_prob: Float[Array, "*batch"]
) -> Float[Array, ""]:
    """max |log r| / max(1, |log π_old|): rounding grows with the number that is rounded."""
    return (jnp.abs(log_ratio) / jnp.maximum(1, jnp.abs(old_log_prob))).max()
