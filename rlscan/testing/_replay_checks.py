"""Checks of replay: whether a policy gives the same outputs for recorded steps as when it acted."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rlscan

from ._conformance import ConformanceError, apply, require, require_close
from ._environments import Walk
from ._policies import Call, DropoutPolicy, Steps, call_of, join, read, unroll

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
    """Check that replaying a rollout gives the log-probabilities that it recorded.

    - In the rollout's own shape `[T, N]`, and for some of the environments in another order.
    - For a feed-forward policy also flat and shuffled `[B]`, for some of the steps, and as
      `[N, T]`; its entropies and values move with the rows.
    - The noise must be worth replaying: with the keys of all steps, one observation and action get
      log-probabilities that differ between steps and between environments. A policy without noise
      is exempt.

    **Arguments:**

    - `policy`: follows the contract of `rlscan.Policy`. Defaults to a policy with dropout.
    - `env`: the environment that it acts in. Defaults to `Walk()`.
    - `replay_fn`: `replay_fn(policy, trajectory) -> (log_prob, entropy, value)`, as
        `rlscan.replay`. It is jitted here.
    - `rollout_fn`, `init_fn`: as for `check_rollout`. The trajectory must be an `eqx.Module` or
        another dataclass with leaves `[T, N, …]`. It may have the fields `initial_policy_state`,
        `[1, N, …]`, and `final` of `rlscan.Trajectory`.
    - `tolerance`: of a log-probability: absolute up to 1, relative beyond. 1e-5 is enough for
        discrete actions; Gaussians need 1e-4.
    - `key`: consumed. Defaults to `rlscan.key(0)`.

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
        return  # a recurrent policy can be replayed only in sequences
    _check_rows(partial(replay, policy), _rows_only(trajectory), whole, tolerance)
    _check_noise(policy, trajectory)


def _rows_only(trajectory: Any) -> Any:
    """Empty the fields of `rlscan.Trajectory` that are not `[T, N, …]`."""
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
    """Check that other keys give other noise, by calling the policy without any replay."""
    first = jax.tree.map(lambda x: x[0, 0], (trajectory.observation, trajectory.action))

    def log_prob(key: Any) -> Any:
        observation, action = first
        return policy(observation, policy.initial_state(), key=key)[0].log_prob(action)

    keys = trajectory.policy_key
    same = np.asarray(jax.jit(jax.vmap(jax.vmap(log_prob)))(keys))
    fresh = jax.random.split(rlscan.key(1), _NUM_STEPS)
    other = np.asarray(jax.jit(jax.vmap(log_prob))(fresh))
    if (other == other[0]).all():
        return  # the policy has no noise, or none that changes this action
    edit = "Give each step and environment its own key, and create no key inside a traced function"
    for axis, name in ((0, "steps"), (1, "environments")):
        required = f"noise must differ between {name}"
        differs = (same != np.take(same, [0], axis=axis)).any()
        require(differs, required, "one log-probability for all", edit)


# Recurrent policies.


class TanhPolicy(eqx.Module):
    """s ← tanh(½ s + W o), logits 2 A s, value Σ s: small enough to be unrolled in float64.

    It has no noise. Its state starts at 0.3, so that a missing reset changes the result.
    """

    read: Any  # W [4, 3]
    act: Any  # A [3, 4]

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.read, self.act = (
            jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((4, 3), (3, 4))
        )

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        import distrax  # not at the top, because importing it takes a second

        state = jnp.tanh(0.5 * state + self.read @ observation)
        return distrax.Categorical(logits=2 * self.act @ state), state.sum(), state

    def initial_state(self) -> Any:
        return jnp.full(4, 0.3)


def _float64_call(policy: TanhPolicy) -> Call:
    """`TanhPolicy` in NumPy."""
    read, act = np.asarray(policy.read, float), np.asarray(policy.act, float)

    def call(observation: Any, action: Any, state: Any, key: Any) -> tuple:
        state = np.tanh(0.5 * np.asarray(state, float) + read @ np.asarray(observation, float))
        logits = 2 * act @ state
        log_probs = logits - np.log(np.exp(logits).sum())
        entropy = -(np.exp(log_probs) * log_probs).sum()
        return log_probs[int(action)], entropy, state.sum(), state

    return call


def check_recurrence(
    policy: Any = None,
    env: Any = None,
    *,
    replay_fn: Callable = rlscan.replay,
    rollout_fn: Callable = rlscan.rollout,
    init_fn: Callable = rlscan.init_rollout,
    tolerance: float = 1e-4,
    key: Any = None,
) -> None:
    """Check a recurrent policy against a step-by-step unroll, over two rollouts with resets.

    - The rollout's log-probabilities are those of a state that is carried from step to step and
      from rollout to rollout, and is reset before a step if the step *before* it ended an episode.
    - `trajectory.initial_policy_state`, `[1, N, …]`, is the state *before* the first step of the
      second rollout.
    - The replay of the second rollout gives the log-probabilities, entropies and values of the
      unroll, for all environments and for some of them.

    If a common mistake explains the difference, the message names it.

    **Arguments:**

    - `policy`: recurrent, following the contract of `rlscan.Policy`. Defaults to one that is
        unrolled in float64 NumPy.
    - `env`: the environment that it acts in. Defaults to `Walk()`.
    - `replay_fn`, `rollout_fn`, `init_fn`: as for `check_replay`.
    - `tolerance`: absolute up to 1, relative beyond.
    - `key`: consumed. Defaults to `rlscan.key(0)`.

    **Raises:** `ConformanceError`; `ValueError` if the policy is feed-forward.
    """
    key = rlscan.key(0) if key is None else key
    own = TanhPolicy()
    call = _float64_call(own) if policy is None else call_of(policy)
    policy = own if policy is None else policy
    env = Walk() if env is None else env
    if not jax.tree.leaves(policy.initial_state()):
        raise ValueError(f"{type(policy).__name__} is feed-forward: its initial_state() is empty")
    start = apply(init_fn, policy, env, num_envs=_NUM_ENVS, key=key)
    middle, first = apply(rollout_fn, policy, env, start, _NUM_STEPS)
    _, second = apply(rollout_fn, policy, env, middle, _NUM_STEPS)

    initial = jax.tree.map(jnp.asarray, policy.initial_state())
    reference = partial(unroll, call, initial)
    begin, both = [initial] * _NUM_ENVS, join(first, second)
    _check_log_prob("as recorded", both.log_prob, partial(reference, begin), both, tolerance)
    begin = reference(begin, first).last
    _check_initial_state(second, begin, tolerance)
    replay = partial(apply, replay_fn, policy)
    _check_sequences(replay, partial(reference, begin), second, tolerance)


def _check_sequences(replay: Callable, reference: Callable, second: Any, tolerance: float) -> None:
    wanted = reference(second)
    log_prob, entropy, value = replay(second)
    _check_log_prob("as replayed", log_prob, reference, read(second), tolerance)
    edit = "Replay a recurrent policy in sequences, as it acted"
    others = (entropy, value), (wanted.entropy, wanted.value)
    for got, x in zip(*map(jax.tree.leaves, others), strict=True):
        what = "the entropy or value as replayed, by an unroll,"
        require_close(what, got, x, edit, tolerance=tolerance)
    some = np.array([3, 1])
    part = jax.tree.map(lambda x: x[:, some], second)
    what = "log_prob as replayed of environments 3 and 1, by an unroll,"
    require_close(what, replay(part)[0], wanted.log_prob[:, some], edit, tolerance=tolerance)


def _check_initial_state(second: Any, wanted: list[Any], tolerance: float) -> None:
    for n, state in enumerate(wanted):
        got = jax.tree.map(lambda x, n=n: x[0, n], second.initial_policy_state)
        for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(state), strict=True):
            what = f"initial_policy_state of environment {n}, before the first step,"
            edit = "Record the state that the rollout begins with, not the one after its first step"
            require_close(what, g, w, edit, tolerance=tolerance)


def _check_log_prob(
    name: str, got: Any, reference: Callable, steps: Steps, tolerance: float
) -> None:
    """Require the log-probabilities of the unroll; the error names the mistake that explains it."""
    what = f"log_prob {name}, by an unroll,"
    edit = (
        "Carry the state, record it before the first step, and reset it before a step if the step "
        "before it ended an episode"
    )
    try:
        require_close(what, got, reference(steps).log_prob, edit, tolerance=tolerance)
    except ConformanceError as error:
        for mistake, change in _MISTAKES.items():
            mistaken = reference(change(steps)).log_prob
            if np.shape(got) == mistaken.shape and np.allclose(got, mistaken, atol=10 * tolerance):
                raise ConformanceError(f"{error}. It is as if {mistake}") from None
        raise


def _ends(change: Callable) -> Callable:
    """A function that changes where episodes end, so that the unroll resets at other steps."""

    def changed(steps: Steps) -> Steps:
        done = np.asarray(steps.terminated | steps.truncated)
        return steps._replace(terminated=change(done), truncated=np.zeros_like(done))

    return changed


_MISTAKES = {
    "the state was never reset": _ends(np.zeros_like),
    "it was reset by the done of the step itself, and not of the step before": _ends(
        lambda done: np.append(done[1:], done[:1] & False, axis=0)
    ),
    "it was reset one step late": _ends(
        lambda done: np.append(done[:1] & False, done[:-1], axis=0)
    ),
    "it was reset before every step": _ends(np.ones_like),
}
