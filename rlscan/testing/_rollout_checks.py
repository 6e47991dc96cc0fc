"""Checks of what a rollout records, of the values it bootstraps from, and of evaluation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rlscan

from ._conformance import apply, plain, require, require_close
from ._environments import Walk, is_start, predict
from ._policies import (
    DropoutPolicy,
    RecurrentPolicy,
    Steps,
    Unrolled,
    call_of,
    join,
    read,
    unroll,
)

_NUM_STEPS, _NUM_ENVS = 16, 4


def check_rollout(
    rollout_fn: Callable, *, init_fn: Callable = rlscan.init_rollout, key: Any = None
) -> None:
    """Check a rollout of noisy policies in `Walk`, whose steps can be predicted.

    The policies are a Gaussian much wider than the box it acts in, a categorical policy, and a GRU,
    each with dropout:

    - every step is the one that NumPy predicts from the recorded observation and action, and an
      episode starts after either kind of end;
    - the recorded log-probability is the one that the policy gives if it is called step by step
      with the recorded keys, its state reset if the step before ended an episode;
    - no two policy keys are equal, over steps and environments, and no action is drawn with one;
    - two rollouts of T steps equal one of 2T.

    **Arguments:**

    - `rollout_fn`: `rollout_fn(policy, env, state, num_steps) -> (state, trajectory)`, as
        `rlscan.rollout`. It is jitted here with a static `num_steps`. The trajectory needs the
        attributes `observation`, `action` (as sampled), `log_prob`, `reward`, `terminated`,
        `truncated` and `policy_key`, all `[T, N, …]`.
    - `init_fn`: `init_fn(policy, env, *, num_envs, key) -> state`.
    - `key`: consumed. Defaults to `rlscan.key(0)`.

    **Raises:** `ConformanceError` for the first requirement that does not hold.
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
    edit = "Draw all random numbers of a step from keys in the state, not from the call or from T"
    for name, got, wanted in zip(Steps._fields, plain(both), plain(read(whole)), strict=True):
        require_close(f"{name} of two rollouts of T steps, as of one of 2T,", got, wanted, edit)


def _check_steps(env: Walk, steps: Steps) -> None:
    steps = jax.tree.map(np.asarray, steps._replace(policy_key=None))
    observation = steps.observation
    for t, n in np.ndindex(*observation.shape[:2]):
        outcome = predict(env, observation[t, n], steps.action[t, n])
        at = f" at t = {t} of environment {n}"
        edit = "Record the action as sampled, and send the environment its legal form"
        require_close(f"the reward{at}", steps.reward[t, n], outcome.reward, edit)
        if outcome.is_on_the_edge:
            continue
        got = [bool(steps.terminated[t, n]), bool(steps.truncated[t, n])]
        wanted = [outcome.terminated, outcome.truncated]
        edit = "Keep the two flags apart, as the environment returns them"
        require(got == wanted, f"(terminated, truncated){at} must be {wanted}", got, edit)
        if t + 1 == len(observation):
            continue
        following = observation[t + 1, n]
        if any(wanted):
            edit = "After either end, record the first observation of a new episode"
            required = f"an episode must start after that{at}"
            require(is_start(following), required, following, edit)
        else:
            edit = "Give the policy the observation that the last step led to"
            require_close(f"the observation after that{at}", following, outcome.observation, edit)
    starts = observation[observation[..., 2] == 0]
    num_different = len(np.unique(starts, axis=0))
    edit = "Give each environment, and each reset, a key of its own"
    required = f"{len(starts)} starts must all differ"
    require(num_different == len(starts), required, f"{num_different} different ones", edit)


def _check_log_prob(policy: Any, steps: Steps) -> None:
    initial = policy.initial_state()
    unrolled = unroll(call_of(policy), initial, [initial] * _NUM_ENVS, steps)
    edit = (
        "Record the key that the policy was called with, and log π of the action as recorded, "
        "before any clipping; reset a recurrent state if the step before ended an episode"
    )
    name = f"log_prob of {type(policy).__name__}, by its recorded key,"
    require_close(name, steps.log_prob, unrolled.log_prob, edit, tolerance=1e-4)


def _check_keys(policy: Any, steps: Steps) -> None:
    words = np.asarray(jax.random.key_data(steps.policy_key)).reshape(steps.reward.size, -1)
    num_different = len(np.unique(words, axis=0))
    edit = "Split a new key for each step and each environment: otherwise they share their noise"
    required = f"the policy keys of {len(words)} steps must all differ"
    require(num_different == len(words), required, f"{num_different} different ones", edit)
    if jax.tree.leaves(policy.initial_state()):
        return

    def by_policy_key(observation: Any, key: Any) -> Any:
        again = jax.random.clone(key)
        return policy(observation, policy.initial_state(), key=key)[0].sample(seed=again)

    drawn = jax.jit(jax.vmap(jax.vmap(by_policy_key)))(steps.observation, steps.policy_key)
    edit = "Draw actions with another key: with the policy's, they depend on its noise"
    required = "actions must not be drawn by the policy's key"
    same = np.isclose(np.asarray(drawn), np.asarray(steps.action)).all()
    require(not same, required, "the actions drawn by it", edit)


# Values to bootstrap from.


def check_truncation(
    next_value_fn: Callable,
    *,
    rollout_fn: Callable = rlscan.rollout,
    init_fn: Callable = rlscan.init_rollout,
    key: Any = None,
) -> None:
    """Check the values that an advantage bootstraps from, with noisy policies in `Walk`.

    The policies are a feed-forward and a recurrent one. The last observation of an episode of
    `Walk` can be predicted.

    - Within an episode, it is the value of the next step.
    - At a truncation, it is the value of the last observation, with the recurrent state after the
      step and the key of the step, and not that of the observation after the reset.
    - After the last step of the rollout, it is the value of the next rollout's first observation,
      with the key that the next rollout uses.

    Terminated steps are ignored.

    **Arguments:**

    - `next_value_fn`: `next_value_fn(policy, state, trajectory, value) -> [T, N]`, as
        `rlscan.next_value`: `state` is the state after the rollout, and `value` `[T, N]` are the
        values of its steps. It is jitted here.
    - `rollout_fn`, `init_fn`: as for `check_rollout`.
    - `key`: consumed. Defaults to `rlscan.key(0)`.

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
        _check_next_value(policy, both, unrolled, np.asarray(got))


def _check_next_value(policy: Any, both: Any, unrolled: Unrolled, got: np.ndarray) -> None:
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
            edit = "Within an episode, use the value of the policy's next observation"
        else:
            last = predict(Walk(), observation[t, n], action[t, n]).observation
            final, state = jnp.asarray(last, jnp.float32), unrolled.after[t][n]
            wanted = call(final, action[t, n], state, both.policy_key[t, n])[2]
            what = "of a truncated episode's last observation"
            edit = (
                "Keep info['final_observation'], and evaluate it with the recurrent state after "
                "the step and the key of the step"
            )
        what = f"next_value {what}, t = {t} of environment {n}, for {type(policy).__name__},"
        require_close(what, got[t, n], wanted, edit, tolerance=1e-4)


# Evaluation.


def check_evaluation(train_and_evaluate: Callable, *, key: Any = None) -> None:
    """Check that evaluation and training draw from different streams of random numbers.

    `Walk` starts at a random position, so two equal starts are two draws with one key.

    **Arguments:**

    - `train_and_evaluate`: `train_and_evaluate(env, key) -> (training, evaluation)`: the
        observations `[…, 3]` of all steps of each, in any order, over a few updates and at least
        one evaluation.
    - `key`: consumed. Defaults to `rlscan.key(0)`.

    **Raises:** `ConformanceError`.
    """
    observations = train_and_evaluate(Walk(), rlscan.key(0) if key is None else key)
    training, evaluation = (_starts(x) for x in observations)
    edit = "Return the observations [x, y, time] of all steps"
    for name, starts in (("training", training), ("evaluation", evaluation)):
        require(len(starts) >= 2, f"{name} must start at least two episodes", len(starts), edit)
    shared = set(training) & set(evaluation)
    edit = "Split the key: one for training, another for each evaluation, each used once"
    required = "no episode of an evaluation must start where one of training did"
    require(not shared, required, f"{len(shared)} of {len(evaluation)} that do", edit)
    edit = "Give each environment, and each reset, a key of its own"
    required = "the episodes of training must start at different positions"
    got = f"{len(set(training))} positions for {len(training)} episodes"
    require(len(set(training)) == len(training), required, got, edit)


def _starts(observations: Any) -> list[tuple[float, ...]]:
    rows = np.asarray(observations).reshape(-1, 3)
    return [tuple(row.tolist()) for row in rows[rows[:, 2] == 0]]
