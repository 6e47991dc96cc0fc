"""`check_replay`: whether a policy says of recorded steps what it said when it acted."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

import rlscan

from ._apply import apply
from ._error import require, require_close
from ._policies import DropoutPolicy
from ._walk import Walk

_NUM_STEPS, _NUM_ENVS = 16, 4
_EDIT = "Call the policy with the key that was recorded for that very row, in training mode"


def check_replay(
    policy: Any = None,
    env: Any = None,
    *,
    replay_fn: Callable = rlscan.replay,
    rollout_fn: Callable = rlscan.rollout,
    init_fn: Callable = rlscan.init_rollout,
    tolerance: float = 1e-4,
    key: Any = None,
) -> None:
    """Checks that replaying a rollout gives the log-probabilities that it recorded.

    - In the rollout's own shape `[T, N]`; for a part of the environments, in another order;
    - for a feed-forward policy flat and shuffled, `[B]`, for some of the steps, and in `[N, T]`;
      its entropies and values are moved with the rows;
    - and that the noise is worth replaying: one observation and action, under the keys of all
      steps, gives other log-probabilities from step to step and from environment to environment
      (which is not asked of a policy that has no noise).

    **Arguments:**

    - `policy`: by the contract of `rlscan.Policy`; one with dropout if not given.
    - `env`: that it acts in; `Walk()` if not given.
    - `replay_fn`: `replay_fn(policy, trajectory) -> (log_prob, entropy, value)`, as
        `rlscan.replay`. Jitted here.
    - `rollout_fn`, `init_fn`: as for `check_rollout`. The trajectory must be an `eqx.Module` or
        another dataclass whose leaves are `[T, N, …]`; its fields `initial_policy_state`,
        `[1, N, …]`, and `final` may be there as in `rlscan.Trajectory`.
    - `tolerance`: of a log-probability, relative where it is beyond 1: 1e-5 is enough for discrete
        actions, and Gaussians need 1e-4.
    - `key`: consumed. `rlscan.key(0)` if not given.

    **Raises:** `ConformanceError`.
    """
    key = rlscan.key(0) if key is None else key
    policy = DropoutPolicy() if policy is None else policy
    env = Walk() if env is None else env
    start = apply(init_fn, policy, env, num_envs=_NUM_ENVS, key=key)
    _, trajectory = apply(rollout_fn, policy, env, start, _NUM_STEPS)
    replay = partial(apply, replay_fn)
    whole = replay(policy, trajectory)
    close = partial(require_close, edit=_EDIT, tolerance=tolerance)
    close("the replayed log_prob", whole[0], trajectory.log_prob)

    order = np.random.default_rng(0).permutation(_NUM_ENVS)
    for columns in (order, order[:3]):
        part = jax.tree.map(lambda x, c=columns: x[:, c], trajectory)
        what = f"the replayed log_prob of the environments {list(map(int, columns))}"
        close(what, replay(policy, part)[0], part.log_prob)
    if jax.tree.leaves(policy.initial_state()):
        return  # a recurrent policy is replayed in sequences
    _check_rows(partial(replay, policy), without_start(trajectory), whole, tolerance)
    _check_noise(policy, trajectory)


def without_start(trajectory: Any) -> Any:
    """Without the fields of `rlscan.Trajectory` that are not `[T, N, …]`."""
    there = {field.name for field in dataclasses.fields(trajectory)}
    empty = {"initial_policy_state": (), "final": None}
    return dataclasses.replace(trajectory, **{k: v for k, v in empty.items() if k in there})


def _check_rows(replay: Callable, steps: Any, whole: tuple, tolerance: float) -> None:
    size = _NUM_STEPS * _NUM_ENVS
    shuffled = np.random.default_rng(0).permutation(size)
    shapes = {
        "flat and shuffled": shuffled,
        "of some of the steps": shuffled[: size // 3],
        "in another batch shape": shuffled.reshape(_NUM_ENVS, _NUM_STEPS),
    }
    for name, rows in shapes.items():
        take = partial(jax.tree.map, lambda x, r=rows: x.reshape(size, *x.shape[2:])[r])
        replayed, wanted = replay(take(steps)), take(whole)
        for what, *pair in zip(("log_prob", "entropy", "value"), replayed, wanted, strict=True):
            for got, x in zip(*map(jax.tree.leaves, pair), strict=True):
                require_close(f"the replayed {what} {name}", got, x, _EDIT, tolerance=tolerance)


def _check_noise(policy: Any, trajectory: Any) -> None:
    """Other keys, other noise. Found by the policy itself, whatever the replay does with keys."""
    first = jax.tree.map(lambda x: x[0, 0], (trajectory.observation, trajectory.action))

    def log_prob(key: Any) -> Any:
        observation, action = first
        return policy(observation, policy.initial_state(), key=key)[0].log_prob(action)

    keys = trajectory.policy_key
    same = np.asarray(jax.jit(jax.vmap(jax.vmap(log_prob)))(keys))
    fresh = jax.random.split(rlscan.key(1), _NUM_STEPS)
    other = np.asarray(jax.jit(jax.vmap(log_prob))(fresh))
    if (other == other[0]).all():
        return  # it has no noise, or none that this action shows
    edit = "Give each step and environment a key of its own, and make none while being traced"
    for axis, name in ((0, "steps"), (1, "environments")):
        required = f"noise must differ between {name}"
        differs = (same != np.take(same, [0], axis=axis)).any()
        require(differs, required, "one log-probability for all", edit)
