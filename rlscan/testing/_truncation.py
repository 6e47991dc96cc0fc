"""`check_truncation`: whose value an advantage bootstraps from."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

import rlscan

from ._apply import apply
from ._error import require_close
from ._policies import DropoutPolicy, RecurrentPolicy
from ._unroll import Unrolled, call_of, join, unroll
from ._walk import Walk, move

_NUM_STEPS, _NUM_ENVS = 16, 4


def check_truncation(
    next_value_fn: Callable,
    *,
    rollout_fn: Callable = rlscan.rollout,
    init_fn: Callable = rlscan.init_rollout,
    key: Any = None,
) -> None:
    """Checks the values that an advantage bootstraps from, V of what followed each step.

    With noisy policies, feed-forward and recurrent, in `Walk`, whose last observations are known:

    - where an episode goes on, it is the value of the next step;
    - where it was truncated, that of its last observation, with the recurrent state after the
      step and the key of the step; not of the observation after the reset;
    - after the last step of the rollout, that of what the next rollout sees first, with the key
      that it uses.

    What stands at a terminated step is not looked at.

    **Arguments:**

    - `next_value_fn`: `next_value_fn(policy, state, trajectory, value) -> [T, N]`, as
        `rlscan.next_value`: `state` is what the rollout led to, `value` `[T, N]` those of its
        steps. Jitted here.
    - `rollout_fn`, `init_fn`: as for `check_rollout`.
    - `key`: consumed. `rlscan.key(0)` if not given.

    **Raises:** `ConformanceError`.
    """
    key = rlscan.key(0) if key is None else key
    for policy in (DropoutPolicy(), RecurrentPolicy()):
        run = partial(apply, rollout_fn, policy, Walk())
        start = apply(init_fn, policy, Walk(), num_envs=_NUM_ENVS, key=key)
        middle, first = run(start, _NUM_STEPS)
        _, second = run(middle, _NUM_STEPS)
        initial, both = policy.initial_state(), join(first, second)
        unrolled = unroll(call_of(policy), initial, [initial] * _NUM_ENVS, both)
        value = jnp.asarray(unrolled.value[:_NUM_STEPS], jnp.float32)
        got = apply(next_value_fn, policy, middle, first, value)
        _check(policy, both, unrolled, np.asarray(got))


def _check(policy: Any, both: Any, unrolled: Unrolled, got: np.ndarray) -> None:
    call = call_of(policy)
    observation, action, terminated, truncated = (
        np.asarray(x) for x in (both.observation, both.action, both.terminated, both.truncated)
    )
    for t, n in np.ndindex(*got.shape):
        if terminated[t, n]:
            continue
        if not truncated[t, n]:
            wanted = unrolled.value[t + 1, n]
            what = "of the next step" if t + 1 < len(got) else "of the next rollout's first step"
            edit = "Where an episode goes on, what follows is what the policy sees next"
        else:
            last = move(Walk(), observation[t, n], action[t, n]).observation
            seen, state = jnp.asarray(last, jnp.float32), unrolled.after[t][n]
            wanted = call(seen, action[t, n], state, both.policy_key[t, n])[2]
            what = "of a truncated episode's last observation"
            edit = (
                "Keep info['final_observation'], and evaluate it with the recurrent state after "
                "the step and the key of the step"
            )
        what = f"next_value {what}, t = {t} of environment {n}, for {type(policy).__name__},"
        require_close(what, got[t, n], wanted, edit, tolerance=1e-4)
