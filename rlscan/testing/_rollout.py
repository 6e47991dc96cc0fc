"""`check_rollout`: whether what a rollout recorded is what happened."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

import rlscan

from ._apply import apply
from ._error import require, require_close
from ._play import plain
from ._policies import DropoutPolicy, RecurrentPolicy
from ._unroll import Steps, call_of, join, read, unroll
from ._walk import Walk, is_start, move

_NUM_STEPS, _NUM_ENVS = 16, 4


def check_rollout(
    rollout_fn: Callable, *, init_fn: Callable = rlscan.init_rollout, key: Any = None
) -> None:
    """Checks a rollout with noisy policies in `Walk`, which is known without asking it.

    For a Gaussian that is far wider than the box it acts in, a categorical policy, and a GRU, each
    with dropout:

    - every step is the one that `Walk` makes of the recorded observation and action, written down
      in NumPy; after an end, of either kind, an episode starts anew;
    - the recorded log-probability is the policy's, called one step after the other with the
      recorded keys, its state reset where the step before ended an episode;
    - no two policy keys are equal, over steps and environments, and no action is drawn by one;
    - two rollouts of T steps are one of 2T.

    **Arguments:**

    - `rollout_fn`: `rollout_fn(policy, env, state, num_steps) -> (state, trajectory)`, as
        `rlscan.rollout`; jitted here, `num_steps` being static. Of the trajectory these are read:
        `observation`, `action` (as sampled), `log_prob`, `reward`, `terminated`, `truncated`,
        `policy_key`, all `[T, N, …]`, by attribute.
    - `init_fn`: `init_fn(policy, env, *, num_envs, key) -> state`.
    - `key`: consumed. `rlscan.key(0)` if not given.

    **Raises:** `ConformanceError` for the first of these that does not hold.
    """
    key = rlscan.key(0) if key is None else key
    wide = DropoutPolicy(num_actions=2, is_continuous=True)
    _check(wide, Walk(is_continuous=True), rollout_fn, init_fn, key)
    _check(DropoutPolicy(), Walk(), rollout_fn, init_fn, key)
    _check(RecurrentPolicy(), Walk(), rollout_fn, init_fn, key)


def _check(policy: Any, env: Walk, rollout_fn: Callable, init_fn: Callable, key: Any) -> None:
    run = partial(apply, rollout_fn, policy, env)
    start = apply(init_fn, policy, env, num_envs=_NUM_ENVS, key=key)
    middle, first = run(start, _NUM_STEPS)
    shape, wanted = np.shape(first.reward), (_NUM_STEPS, _NUM_ENVS)
    require(shape == wanted, f"a trajectory must be [T, N] = {wanted}", shape, "Time comes first")
    _, second = run(middle, _NUM_STEPS)
    both = join(first, second)
    _check_steps(env, both)
    _check_log_prob(policy, both)
    _check_keys(policy, both)
    _, whole = run(start, 2 * _NUM_STEPS)
    edit = "Every draw of a step must come from keys in the state, not from the call or from T"
    for name, got, wanted in zip(Steps._fields, plain(both), plain(read(whole)), strict=True):
        require_close(f"{name} of two rollouts of T steps, as of one of 2T,", got, wanted, edit)


def _check_steps(env: Walk, steps: Steps) -> None:
    steps = jax.tree.map(np.asarray, steps._replace(policy_key=None))
    observation = steps.observation
    for t, n in np.ndindex(*observation.shape[:2]):
        moved = move(env, observation[t, n], steps.action[t, n])
        at = f" at t = {t} of environment {n}"
        edit = "The action that was sampled is recorded, and its legal form is sent"
        require_close(f"the reward{at}", steps.reward[t, n], moved.reward, edit)
        if moved.is_on_the_edge:
            continue
        got = [bool(steps.terminated[t, n]), bool(steps.truncated[t, n])]
        wanted = [moved.terminated, moved.truncated]
        edit = "Keep the two ends apart, as the environment returns them"
        require(got == wanted, f"(terminated, truncated){at} must be {wanted}", got, edit)
        if t + 1 == len(observation):
            continue
        following = observation[t + 1, n]
        if any(wanted):
            edit = "After either end the next observation is that of a new episode"
            required = f"an episode must start after that{at}"
            require(is_start(following), required, following, edit)
        else:
            edit = "What a step leads to is what the policy sees next"
            require_close(f"the observation after that{at}", following, moved.observation, edit)
    starts = observation[observation[..., 2] == 0]
    num_different = len(np.unique(starts, axis=0))
    edit = "Give each environment, and each reset, a key of its own"
    required = f"{len(starts)} starts must all differ"
    require(num_different == len(starts), required, f"{num_different} different ones", edit)


def _check_log_prob(policy: Any, steps: Steps) -> None:
    initial = policy.initial_state()
    unrolled = unroll(call_of(policy), initial, [initial] * _NUM_ENVS, steps)
    edit = (
        "Record the key that the policy was called with, and log π of the action as it was "
        "recorded, before any clipping; reset a recurrent state where the step before ended"
    )
    name = f"log_prob of {type(policy).__name__}, by its recorded key,"
    require_close(name, steps.log_prob, unrolled.log_prob, edit, tolerance=1e-4)


def _check_keys(policy: Any, steps: Steps) -> None:
    words = np.asarray(jax.random.key_data(steps.policy_key)).reshape(steps.reward.size, -1)
    num_different = len(np.unique(words, axis=0))
    edit = "Split a new key for each step and each environment: else they share their noise"
    required = f"the policy keys of {len(words)} steps must all differ"
    require(num_different == len(words), required, f"{num_different} different ones", edit)
    if jax.tree.leaves(policy.initial_state()):
        return

    def by_policy_key(observation: Any, key: Any) -> Any:
        again = jax.random.clone(key)
        return policy(observation, policy.initial_state(), key=key)[0].sample(seed=again)

    drawn = jax.jit(jax.vmap(jax.vmap(by_policy_key)))(steps.observation, steps.policy_key)
    edit = "Draw actions from another key: with the policy's they depend on its noise"
    required = "actions must not be drawn by the policy's key"
    same = np.isclose(np.asarray(drawn), np.asarray(steps.action)).all()
    require(not same, required, "those that it draws", edit)
