"""`check_recurrence`: whether a recurrent state is carried, recorded and reset where it must be."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rlscan

from ._error import ConformanceError, require_close
from ._unroll import Call, Steps, Unrolled, call_of, join, unroll
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
    run = eqx.filter_jit(partial(rollout_fn, policy, env))
    middle, first = run(init_fn(policy, env, num_envs=_NUM_ENVS, key=key), _NUM_STEPS)
    _, second = run(middle, _NUM_STEPS)

    by_hand = _by_hand(policy, call, first, second)
    judge = partial(_judge, policy, call, first, second, tolerance)
    judge("recorded", join(first, second).log_prob, by_hand.log_prob)
    _check_initial_state(second, _by_hand(policy, call, first, None).last, tolerance)

    replay = eqx.filter_jit(replay_fn)
    wanted = jax.tree.map(lambda x: x[_NUM_STEPS:], by_hand[:3])
    log_prob, *others = replay(policy, second)
    judge("replayed", log_prob, wanted[0])
    edit = "Replay a recurrent policy in sequences, as it acted"
    for got, x in zip(jax.tree.leaves(others), jax.tree.leaves(wanted[1:]), strict=True):
        what = "the entropy or value of the replay, by an unroll,"
        require_close(what, got, x, edit, tolerance=tolerance)
    some = np.array([3, 1])
    part = jax.tree.map(lambda x: x[:, some], second)
    judge("replayed of environments 3 and 1", replay(policy, part)[0], wanted[0][:, some])


def _by_hand(
    policy: Any, call: Call, first: Any, second: Any, change: Callable = lambda steps: steps
) -> Unrolled:
    steps = join(first, second) if second is not None else first
    initial = jax.tree.map(jnp.asarray, policy.initial_state())
    return unroll(call, initial, [initial] * _NUM_ENVS, change(steps))


def _check_initial_state(second: Any, wanted: list[Any], tolerance: float) -> None:
    for n, state in enumerate(wanted):
        got = jax.tree.map(lambda x, n=n: x[0, n], second.initial_policy_state)
        for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(state), strict=True):
            what = f"initial_policy_state of environment {n}, before the first step,"
            edit = "Record the state that the rollout begins with, not the one after its first step"
            require_close(what, g, w, edit, tolerance=tolerance)


def _judge(
    policy: Any,
    call: Call,
    first: Any,
    second: Any,
    tolerance: float,
    name: str,
    got: Any,
    wanted: np.ndarray,
) -> None:
    """Raises if log-probabilities are not those of the unroll, with the mistake that fits."""
    what = f"log_prob as {name}, by an unroll,"
    edit = "Carry the state, record it before the first step, and reset it before a step where "
    edit += "the step before it ended an episode"
    try:
        require_close(what, got, wanted, edit, tolerance=tolerance)
    except ConformanceError as error:
        got = np.asarray(got, float)
        if got.shape[1] == _NUM_ENVS:
            for mistake, change in _MISTAKES.items():
                theirs = _by_hand(policy, call, first, second, change).log_prob[-len(got) :]
                if np.abs(got - theirs).max() <= tolerance * 10:
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
    "it was reset one step late": _ends(lambda done: np.append(done[:1] & False, done[:-1], axis=0)),
    "it was reset before every step": _ends(np.ones_like),
}
