"""Checks of advantages and of reward scaling."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ._conformance import require_close

_GAMMA, _LAMBDA = 0.9, 0.7


class Stream(NamedTuple):
    """T steps of one environment, `[T]` each: the arguments of `gae` in their order."""

    reward: np.ndarray
    value: np.ndarray
    next_value: np.ndarray  # of the observation after the step, before any reset
    terminated: np.ndarray
    truncated: np.ndarray


def check_gae(fn: Callable, *, tolerance: float = 1e-5) -> None:
    """Check generalised advantage estimation on one stream of experience.

    The reference is Âₜ = Σₗ (γλ)ˡ δₜ₊ₗ, up to the end of the episode, with
    δₜ = rₜ + γ (1 − terminatedₜ) V(s′ₜ) − V(sₜ), in float64. In addition,

    - λ = 0 gives δ, and λ = 1 without ends gives the discounted return minus the value;
    - a terminated step does not bootstrap, whatever its next value is, even NaN;
    - a truncated step bootstraps from the value of its last observation, not from `value[t + 1]`;
    - either end cuts the trace, and an episode with both flags set terminated;
    - the target is the advantage plus the value.

    **Arguments:**

    - `fn`: `fn(reward, value, next_value, terminated, truncated, *, gamma, gae_lambda) ->
        (advantage, target)`, for `[T]` arrays, as `rlscan.gae`. Wrap a function of `[T, N]` arrays:
        `lambda *stream, **k: jax.tree.map(lambda x: x[:, 0], fn(*(s[:, None] for s in stream),
        **k))`.
    - `tolerance`: absolute up to 1, relative beyond.

    **Raises:** `ConformanceError` for the first requirement that does not hold.

    Source: Schulman et al., 2016, arXiv:1506.02438, eq. 14; Pardo et al., 2018, arXiv:1712.00378.
    """

    def check(what: str, stream: Stream, wanted: Any, edit: str, gamma: Any, lam: Any) -> None:
        advantage, target = fn(*map(jnp.asarray, stream), gamma=gamma, gae_lambda=lam)
        require_close(f"the advantage {what}", advantage, wanted, edit, tolerance=tolerance)
        sum_edit = "A target is the advantage plus the value, before any normalisation"
        wanted = wanted + np.asarray(stream.value, np.float64)
        require_close(f"the target {what}", target, wanted, sum_edit, tolerance=tolerance)

    for cases in (_without_ends, _terminations, _truncations, _both_flags):
        for case in cases():
            check(*case)
    rng = np.random.default_rng(0)
    for i in range(8):
        stream = random_stream(rng)
        gamma, lam = rng.uniform(0.5, 1.0, 2)
        wanted = reference_gae(stream, gamma, lam)
        edit = "Compare with the sum in the docstring of check_gae"
        check(f"of random stream {i}", stream, wanted, edit, gamma, lam)


def reference_gae(stream: Stream, gamma: float, gae_lambda: float) -> np.ndarray:
    """The advantage `[T]` in float64: the papers' sum, computed separately for each step."""
    reward, value, next_value = (np.asarray(x, np.float64) for x in stream[:3])
    advantage = np.zeros(len(reward))
    for t in range(len(reward)):
        for k in range(t, len(reward)):
            following = 0.0 if stream.terminated[k] else gamma * next_value[k]
            advantage[t] += (gamma * gae_lambda) ** (k - t) * (reward[k] + following - value[k])
            if stream.terminated[k] or stream.truncated[k]:
                break
    return advantage


def random_stream(rng: np.random.Generator, length: int = 8) -> Stream:
    """A random stream with both kinds of ends, after which the next value is another's."""
    reward, value, final = rng.normal(size=(3, length)).astype(np.float32)
    terminated, truncated = rng.random((2, length)) < 0.3
    following = np.append(value[1:], final[-1])
    next_value = np.where(terminated | truncated, final, following)
    return Stream(reward, value, next_value, terminated, truncated)


def _stream(**flags: int) -> Stream:
    """Eight steps, and the step at which each given flag is set."""
    rng = np.random.default_rng(1)
    reward, value = rng.normal(size=(2, 8)).astype(np.float32)
    next_value = np.append(value[1:], np.float32(0.5))
    ends = (np.arange(8) == flags.get(name) for name in ("terminated", "truncated"))
    return Stream(reward, value, next_value, *ends)


def _without_ends() -> list[tuple]:
    stream = _stream()
    delta = _delta(stream)
    weights = _GAMMA ** np.arange(9)
    rewards = np.append(stream.reward, stream.next_value[-1]).astype(float)
    returns = np.array([(rewards[t:] * weights[: 9 - t]).sum() for t in range(8)])
    return [
        ("with λ = 0", stream, delta, "It is r + γ V(s′) − V(s): λ decays the trace", _GAMMA, 0.0),
        (
            "with λ = 1",
            stream,
            returns - stream.value,
            "It is the discounted return minus the value: the trace decays by γ λ",
            _GAMMA,
            1.0,
        ),
    ]


def _terminations() -> list[tuple]:
    stream = _stream(terminated=3)
    wanted = reference_gae(stream, _GAMMA, _LAMBDA)
    stream.next_value[3] = np.nan
    what = "at a termination whose next_value is NaN"
    edit = "Nothing follows a termination: select with jnp.where instead of multiplying, and cut "
    return [(what, stream, wanted, edit + "the trace", _GAMMA, _LAMBDA)]


def _truncations() -> list[tuple]:
    stream = _stream(truncated=3)
    stream.next_value[3] = 7.0
    return [
        (
            "at a truncation, with λ = 0,",
            stream,
            _delta(stream),
            "A truncation is no termination: bootstrap from next_value[t], the value of the last "
            "observation, and not from value[t + 1], which belongs to another episode",
            _GAMMA,
            0.0,
        ),
        (
            "at a truncation, with λ > 0,",
            stream,
            reference_gae(stream, _GAMMA, _LAMBDA),
            "The trace must be cut when an episode is truncated: multiply it by "
            "1 − (terminated or truncated)",
            _GAMMA,
            _LAMBDA,
        ),
    ]


def _both_flags() -> list[tuple]:
    stream = _stream(terminated=3, truncated=3)
    stream.next_value[3] = 7.0
    edit = "A termination wins over a truncation: bootstrap unless terminated"
    wanted = reference_gae(stream, _GAMMA, _LAMBDA)
    return [("with both flags set", stream, wanted, edit, _GAMMA, _LAMBDA)]


def _delta(stream: Stream) -> np.ndarray:
    following = np.where(stream.terminated, 0.0, stream.next_value)
    return stream.reward.astype(float) + _GAMMA * following - stream.value


# Reward scaling.

_NUM_STEPS, _SMALL, _LARGE = 400, 1.0, 5.0


def check_reward_scaling(fn: Callable, *, tolerance: float = 0.05) -> None:
    """Check that rewards are divided by the standard deviation of the discounted return so far.

    R ← γ R + r; the deviation is that of R over all steps; the result is r / deviation; and *then*
    R ← 0 if the episode ended in either way. No mean is subtracted.

    Episodes of two steps with rewards 1 and 5 repeat, so R is 1 and γ + 5. Only the last quarter of
    the steps is compared, so statistics may move from step to step or from block to block.

    **Arguments:**

    - `fn`: `fn(reward, terminated, truncated, *, gamma) -> scaled`, for `[T, N]` arrays, starting
        from empty statistics.
    - `tolerance`: relative. It is wide to allow for the steps before the statistics settle.

    **Raises:** `ConformanceError`.

    Source: Engstrom et al., *Implementation Matters in Deep Policy Gradients*, 2020,
    arXiv:2005.12729, appendix A.2; the reset is that of Gymnasium issues 760 and 1507.
    """
    phase = np.add.outer(np.arange(_NUM_STEPS), [0, 1]) % 2  # the second environment is one ahead
    reward = np.where(phase == 1, _LARGE, _SMALL)
    returns = np.where(phase == 1, _GAMMA * _SMALL + _LARGE, _SMALL)
    wanted = (reward / returns.std())[-_NUM_STEPS // 4 :]
    ended, no = phase == 1, np.zeros_like(phase, bool)
    for name, ends in (("terminates", (ended, no)), ("is truncated", (no, ended))):
        arrays = jnp.asarray(reward, jnp.float32), *map(jnp.asarray, ends)
        got = np.asarray(fn(*arrays, gamma=_GAMMA))[-_NUM_STEPS // 4 :]
        what = f"the scaled reward when every second step {name}"
        edit = (
            "Update the statistics with R = γ R + r first, then set R to 0 if the episode ended: "
            "otherwise its last reward is counted in the next one"
        )
        require_close(what, got, wanted, edit, tolerance=tolerance)
