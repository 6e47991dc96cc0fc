"""The verdicts on the updates of a run: the audit, and divergence, with their likely causes."""

from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

import equinox as eqx
import numpy as np

from .._core.types import Environment
from .._rollout.audit import (
    LEAST_TOLERANCE,
    AuditError,
    audit_tolerance,
    explain_ratio,
    failed_audit,
)
from .._rollout.state import is_recurrent
from ..random._keys import impl_of
from ._algorithm import PPO
from ._divergence import explain_divergence
from ._finite import DivergenceError, place_of
from ._runs_axis import run_of
from ._update import TrainState, collect, flatten_steps


@runtime_checkable
class Settings(Protocol):
    """What an update was made with, so that it can be made again."""

    algorithm: PPO
    strict: bool | float


def check_audit(
    settings: Settings, before: TrainState, metrics: Mapping[str, Any], *, num_since: int
) -> None:
    """Raise `AuditError`, with the likely cause, if an update fails the audit.

    **Arguments:**

    - `settings`: those of the run.
    - `before`: a state before the update, from which everything is computed again.
    - `metrics`: those of the update, on the host, `[]` or `[R]`.
    - `num_since`: the number of updates between `before` and the update.
    """
    is_default = isinstance(settings.strict, bool | np.bool_)
    errors, diverged = np.ravel(metrics["audit_error"]), np.ravel(metrics["diverged"])
    least = LEAST_TOLERANCE if is_default else float(settings.strict)
    # A diverged update has no audit; its NaN is reported as a divergence.
    failed = failed_audit(errors, least) & ~(np.isnan(errors) & (diverged > 0))
    for i in np.flatnonzero(failed):
        state, ppo = _run(settings, before, int(i))
        # The tolerance for the kind of actions takes a trace, so it is found only if needed.
        impl, env = impl_of(state.rollout_state.key), cast(Environment, state.env)
        tolerance = audit_tolerance(state.policy, env, impl) if is_default else least
        if not failed_audit(errors[i], tolerance):
            continue
        for _ in range(num_since):
            state, _ = eqx.filter_jit(ppo.update)(state)
        error = AuditError(
            f"update {int(state.num_updates) + 1}: before its first gradient step log π is off by "
            f"{errors[i]:.2g} (relative), but {tolerance:g} is allowed. Likely cause: "
            f"{_cause(ppo, state, tolerance)}"
        )
        error.run = int(i) if before.num_updates.ndim else None
        raise error


def _cause(ppo: PPO, state: TrainState, tolerance: float) -> str:
    env, config = cast(Environment, state.env), ppo.config_at(state)
    policy, _, batch, *_ = eqx.filter_jit(collect)(state, env, config, ppo.on_batch)
    minibatch = batch if is_recurrent(policy) else flatten_steps(batch)
    _, (log_ratio, _) = eqx.filter_jit(ppo.loss)(policy, minibatch, config)
    recorded = batch.trajectory.log_prob
    log_prob = log_ratio.reshape(recorded.shape) + recorded
    cause = explain_ratio(policy, env, batch.trajectory, log_prob, tolerance=tolerance)
    return cause or "none was found, as outside the update all is equal"


def check_divergences(settings: Settings, state: TrainState, *, debug: bool) -> None:
    """Raise `DivergenceError` if any run has diverged; name the number if `debug`.

    **Arguments:**

    - `settings`: those of the run, or of several runs.
    - `state`: the last one; of several runs every leaf is `[R, …]`.
    - `debug`: whether to make the first diverged update again, to find the number.
    """
    which = np.flatnonzero(np.asarray(state.divergence.update) > 0)
    if len(which) == 0:
        return
    own, ppo = _run(settings, state, int(which[0]))
    found = f"{place_of(own.divergence)}: a number is not finite"
    hint = "; the state before that update is kept, and --debug (debug=True) names the number"
    if debug:
        env, again = (
            cast(Environment, own.env),
            {"num_updates": int(np.asarray(ppo.num_updates)), "loss": ppo.loss, "mesh": ppo.mesh},
        )
        again |= {"optimizer": ppo.optimizer, "on_batch": ppo.on_batch}
        found = str(explain_divergence(own, env, ppo.config, **again))
        hint = "; the state before that update is kept"
    error = DivergenceError(found + hint)
    error.runs = which.tolist() if state.num_updates.ndim else None
    raise error


def _run(settings: Settings, state: TrainState, i: int) -> tuple[TrainState, PPO]:
    """The state of run i, and PPO with its numbers."""
    axis = state.num_updates.shape
    own, rest = settings.algorithm.partition_runs()
    return run_of(state, i, axis), eqx.combine(run_of(own, i, axis), rest)
