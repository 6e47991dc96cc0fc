"""`check_recurrence`: whether a recurrent state is carried, recorded and reset where it must be."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rlscan

from ._apply import apply
from ._error import ConformanceError, require_close
from ._unroll import Call, Steps, call_of, join, read, unroll
from ._walk import Walk

_NUM_STEPS, _NUM_ENVS = 16, 4


class Trace(eqx.Module):
    """s ← tanh(½ s + W o), logits A s, value Σ s: small enough to be unrolled in float64.

    Without noise, and with a state that starts at 0.3: one that was never reset must show.
    """

    read: Any  # W [4, 3]
    act: Any  # A [3, 4]

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.read, self.act = (
            jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((4, 3), (3, 4))
        )

    def __call__(self, observation: Any, state: Any, *, key: Any) -> tuple:
        import distrax  # takes a second, so not at the top

        state = jnp.tanh(0.5 * state + self.read @ observation)
        return distrax.Categorical(logits=2 * self.act @ state), state.sum(), state

    def initial_state(self) -> Any:
        return jnp.full(4, 0.3)


def _float64_call(policy: Trace) -> Call:
    """`Trace` in NumPy."""
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
    """Checks a recurrent policy against an unroll by hand, over two rollouts with resets.

    - The rollout's log-probabilities are those of a state that is carried from step to step and
      from rollout to rollout, and is reset before a step where the step *before* it ended;
    - `trajectory.initial_policy_state`, `[1, N, …]`, is the state *before* the first step of the
      second rollout;
    - the replay of the second rollout gives the log-probabilities, entropies and values of the
      unroll, for all environments and for some of them.

    The message says which mistake fits, if a common one does.

    **Arguments:**

    - `policy`: a recurrent one, by the contract of `rlscan.Policy`. If not given, one that is
        unrolled in float64 NumPy.
    - `env`: that it acts in; `Walk()` if not given.
    - `replay_fn`, `rollout_fn`, `init_fn`: as for `check_replay`.
    - `tolerance`: relative where a number is beyond 1.
    - `key`: consumed. `rlscan.key(0)` if not given.

    **Raises:** `ConformanceError`; `ValueError` if the policy is feed-forward.
    """
    key = rlscan.key(0) if key is None else key
    own = Trace()
    call = _float64_call(own) if policy is None else call_of(policy)
    policy = own if policy is None else policy
    env = Walk() if env is None else env
    if not jax.tree.leaves(policy.initial_state()):
        raise ValueError(f"{type(policy).__name__} is feed-forward: its initial_state() is empty")
    start = apply(init_fn, policy, env, num_envs=_NUM_ENVS, key=key)
    middle, first = apply(rollout_fn, policy, env, start, _NUM_STEPS)
    _, second = apply(rollout_fn, policy, env, middle, _NUM_STEPS)

    initial = jax.tree.map(jnp.asarray, policy.initial_state())
    by_hand = partial(unroll, call, initial)
    begin, both = [initial] * _NUM_ENVS, join(first, second)
    _judge("as recorded", both.log_prob, partial(by_hand, begin), both, tolerance)
    begin = by_hand(begin, first).last
    _check_initial_state(second, begin, tolerance)
    _check_replay(partial(apply, replay_fn, policy), partial(by_hand, begin), second, tolerance)


def _check_replay(replay: Callable, by_hand: Callable, second: Any, tolerance: float) -> None:
    wanted = by_hand(second)
    log_prob, entropy, value = replay(second)
    _judge("as replayed", log_prob, by_hand, read(second), tolerance)
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


def _judge(name: str, got: Any, by_hand: Callable, steps: Steps, tolerance: float) -> None:
    """Raises if log-probabilities are not those of the unroll, with the mistake that fits."""
    what = f"log_prob {name}, by an unroll,"
    edit = (
        "Carry the state, record it before the first step, and reset it before a step where the "
        "step before it ended an episode"
    )
    try:
        require_close(what, got, by_hand(steps).log_prob, edit, tolerance=tolerance)
    except ConformanceError as error:
        for mistake, change in _MISTAKES.items():
            theirs = by_hand(change(steps)).log_prob
            if np.shape(got) == theirs.shape and np.allclose(got, theirs, atol=10 * tolerance):
                raise ConformanceError(f"{error}. It is as if {mistake}") from None
        raise


def _ends(change: Callable) -> Callable:
    """Steps with other ends, so that the unroll resets elsewhere."""

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
