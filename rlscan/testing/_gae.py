"""`check_gae`: advantages against the papers' sum, and against what must hold of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ._error import require_close

_GAMMA, _LAMBDA = 0.9, 0.7


class Stream(NamedTuple):
    """T steps of one environment, `[T]` each; the arguments of `gae` in their order."""

    reward: np.ndarray
    value: np.ndarray
    next_value: np.ndarray  # of what followed a step before any reset
    terminated: np.ndarray
    truncated: np.ndarray


def check_gae(fn: Callable, *, tolerance: float = 1e-5) -> None:
    """Checks generalised advantage estimation on one stream of experience.

    Against Âₜ = Σₗ (γλ)ˡ δₜ₊ₗ, up to the end of the episode, with
    δₜ = rₜ + γ (1 − terminatedₜ) V(s′ₜ) − V(sₜ), in float64; and that

    - λ = 0 gives δ, and λ = 1 without ends the discounted return minus the value;
    - a termination is not bootstrapped from, whatever stands there (even NaN);
    - a truncation is, from the value of its last observation and not from `value[t + 1]`;
    - either cuts the trace, and where both are set the episode terminated;
    - the target is the advantage plus the value.

    **Arguments:**

    - `fn`: `fn(reward, value, next_value, terminated, truncated, *, gamma, gae_lambda) ->
        (advantage, target)`, of `[T]` arrays, as `rlscan.gae`. One that takes `[T, N]` is wrapped:
        `lambda *stream, **k: jax.tree.map(lambda x: x[:, 0], fn(*(s[:, None] for s in stream),
        **k))`.
    - `tolerance`: relative where a number is beyond 1.

    **Raises:** `ConformanceError` for the first of these that does not hold.

    Source: Schulman et al., 2016, arXiv:1506.02438, eq. 14; Pardo et al., 2018, arXiv:1712.00378.
    """

    def check(what: str, stream: Stream, wanted: Any, edit: str, gamma: Any, lam: Any) -> None:
        advantage, target = fn(*map(jnp.asarray, stream), gamma=gamma, gae_lambda=lam)
        require_close(f"the advantage {what}", advantage, wanted, edit, tolerance=tolerance)
        sum_edit = "A target is the advantage plus the value, before any normalisation"
        wanted = wanted + np.asarray(stream.value, np.float64)
        require_close(f"the target {what}", target, wanted, sum_edit, tolerance=tolerance)

    for identity in (_without_ends, _of_terminations, _of_truncations, _of_both_flags):
        for case in identity():
            check(*case)
    rng = np.random.default_rng(0)
    for i in range(8):
        stream = random_stream(rng)
        gamma, lam = rng.uniform(0.5, 1.0, 2)
        wanted = reference_gae(stream, gamma, lam)
        check(f"of random stream {i}", stream, wanted, "Compare with the sum above", gamma, lam)


def reference_gae(stream: Stream, gamma: float, gae_lambda: float) -> np.ndarray:
    """The advantage `[T]` in float64: the papers' sum as it stands, for each step anew."""
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
    """With ends of every kind, after which what follows is no longer the next step's value."""
    reward, value, final = rng.normal(size=(3, length)).astype(np.float32)
    terminated, truncated = rng.random((2, length)) < 0.3
    following = np.append(value[1:], final[-1])
    next_value = np.where(terminated | truncated, final, following)
    return Stream(reward, value, next_value, terminated, truncated)


def _stream(**changes: Any) -> Stream:
    """Eight steps without an end, but for what is changed; flags by their step."""
    rng = np.random.default_rng(1)
    reward, value = rng.normal(size=(2, 8)).astype(np.float32)
    after = np.float32(0.5)
    stream = Stream(reward, value, np.append(value[1:], after), *np.zeros((2, 8), bool))
    for name in ("terminated", "truncated"):
        changes[name] = np.arange(8) == changes.pop(name, None)
    return stream._replace(**changes)


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


def _of_terminations() -> list[tuple]:
    stream = _stream(terminated=3)
    wanted = reference_gae(stream, _GAMMA, _LAMBDA)
    stream.next_value[3] = np.nan
    what = "where an episode terminated, and next_value is NaN,"
    edit = "Nothing follows a termination: select with jnp.where, not by multiplication, and cut "
    return [(what, stream, wanted, edit + "the trace", _GAMMA, _LAMBDA)]


def _of_truncations() -> list[tuple]:
    stream = _stream(truncated=3)
    stream.next_value[3] = 7.0
    bootstrap = "with λ = 0, where an episode was truncated,"
    trace = "with λ > 0, where an episode was truncated,"
    return [
        (
            bootstrap,
            stream,
            _delta(stream),
            "A truncation is no termination: bootstrap from next_value[t], that of the last "
            "observation, and not from value[t + 1], which is of another episode",
            _GAMMA,
            0.0,
        ),
        (
            trace,
            stream,
            reference_gae(stream, _GAMMA, _LAMBDA),
            "The trace must be cut where an episode is truncated: multiply it by "
            "1 − (terminated or truncated)",
            _GAMMA,
            _LAMBDA,
        ),
    ]


def _of_both_flags() -> list[tuple]:
    stream = _stream(terminated=3, truncated=3)
    stream.next_value[3] = 7.0
    edit = "A termination wins over a truncation: bootstrap unless terminated"
    wanted = reference_gae(stream, _GAMMA, _LAMBDA)
    return [("where both flags are set", stream, wanted, edit, _GAMMA, _LAMBDA)]


def _delta(stream: Stream) -> np.ndarray:
    following = np.where(stream.terminated, 0.0, stream.next_value)
    return stream.reward.astype(float) + _GAMMA * following - stream.value
