"""Spaces, and `Walk`: an environment whose every step can be predicted in NumPy."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._conformance import ConformanceError


class Discrete(NamedTuple):
    """The integers 0 … n − 1."""

    n: int
    """The number of integers."""


class Box(NamedTuple):
    """Arrays of one shape, between two bounds."""

    low: Any
    """The lower bound, or one for each entry."""
    high: Any
    """The upper bound, likewise."""
    shape: tuple[int, ...]
    """The shape of an array."""


_LARGEST = float(np.finfo(np.float32).max)  # gymnax writes it for a missing bound


def sample(space: Any, key: Any) -> Any:
    """Draw uniformly from a space of gymnax or Gymnasium; a missing bound counts as ±1."""
    parts = _parts(space)
    if isinstance(parts, dict):
        keys = jax.random.split(key, len(parts))
        return {name: sample(part, k) for (name, part), k in zip(parts.items(), keys, strict=True)}
    if isinstance(parts, tuple):
        keys = jax.random.split(key, len(parts))
        return tuple(sample(part, k) for part, k in zip(parts, keys, strict=True))
    if _is_discrete(space):
        start = getattr(space, "start", 0)
        return jax.random.randint(key, (), start, start + space.n)
    if (categories := _categories(space)) is not None:  # Gymnasium's MultiDiscrete, MultiBinary
        start = jnp.asarray(getattr(space, "start", 0))
        return start + jax.random.randint(key, categories.shape, 0, jnp.asarray(categories))
    if _is_box(space):
        low, high = (np.broadcast_to(np.asarray(s), space.shape) for s in (space.low, space.high))
        low = np.where(np.abs(low) >= _LARGEST, np.minimum(-1.0, high - 1), low)
        high = np.where(np.abs(high) >= _LARGEST, np.maximum(1.0, low + 1), high)
        draw = jax.random.uniform(key, space.shape, minval=low, maxval=high)
        return draw.astype(getattr(space, "dtype", draw.dtype))
    raise ConformanceError(
        f"a space must have the attributes n, nvec, spaces, or low, high and shape; got {space!r}. "
        "Pass a sample_action(key) of your own to check_environment"
    )


def complaint(space: Any, x: Any) -> str | None:
    """Why an element is not in a space; `None` if it is, or if the space is of an unknown kind."""
    parts = _parts(space)
    if parts is not None:
        if isinstance(parts, dict) != isinstance(x, Mapping) or len(parts) != len(x):
            return f"has the structure {jax.tree.structure(x)}"
        names = parts if isinstance(parts, dict) else range(len(parts))
        found = ((name, complaint(parts[name], x[name])) for name in names)
        return next((f"in [{name!r}] {why}" for name, why in found if why), None)
    x = np.asarray(x)
    if _is_box(space):
        return _complaint_of_box(space, x)
    categories = _categories(space)
    if categories is None:
        return None
    if x.dtype.kind not in "iub":
        return f"is of dtype {x.dtype}, but the space holds integers"
    if x.shape != categories.shape:
        return f"has the shape {x.shape}, but the space declares {categories.shape}"
    start = np.asarray(getattr(space, "start", 0))
    outside = (x < start) | (x >= start + categories)
    if not outside.any():
        return None
    most = np.broadcast_to(start + categories - 1, x.shape)[outside][0]
    least = np.broadcast_to(start, x.shape)[outside][0]
    return f"is {x[outside][0]}, not an integer in {least} … {most}"


def _complaint_of_box(space: Any, x: np.ndarray) -> str | None:
    declared = jax.dtypes.canonicalize_dtype(getattr(space, "dtype", x.dtype))
    if jax.dtypes.canonicalize_dtype(x.dtype) != declared:
        return f"is of dtype {x.dtype}, but the space declares {declared}"
    if x.shape != tuple(space.shape):
        return f"has the shape {x.shape}, but the space declares {tuple(space.shape)}"
    low, high = np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
    slack = 1e-5 * np.maximum(1, np.abs(x))  # bounds and observations are both rounded
    outside = ~((x >= low - slack) & (x <= high + slack))  # true for NaN
    return f"is {x[outside][0]}, outside of its box" if outside.any() else None


def _categories(space: Any) -> np.ndarray | None:
    """The number of values of each integer of a Discrete, MultiDiscrete or MultiBinary space."""
    if hasattr(space, "nvec"):
        return np.asarray(space.nvec)
    if hasattr(space, "n"):
        return np.asarray(space.n) if _is_discrete(space) else np.full(space.shape, 2)
    return None


def _parts(space: Any) -> dict | tuple | None:
    """The spaces inside a Dict or a Tuple, `None` for any other space."""
    if _is_discrete(space) or _is_box(space):
        return None  # tested first, because either may be a named tuple
    inner = getattr(space, "spaces", space)
    if isinstance(inner, Mapping):
        return dict(inner)
    return tuple(inner) if isinstance(inner, tuple | list) else None


def _is_discrete(space: Any) -> bool:
    return hasattr(space, "n") and getattr(space, "shape", ()) == ()


def _is_box(space: Any) -> bool:
    return all(hasattr(space, name) for name in ("low", "high", "shape"))


def finish(
    env: Any, key: Any, observation: Any, state: Any, reward: Any, ends: tuple[Any, Any]
) -> tuple:
    """The six values of a step, after the reset that the contract asks for.

    `observation` and `state` are those before the reset, `ends` is `(terminated, truncated)`, and
    `key` is consumed by the reset.
    """
    terminated, truncated = ends
    pick = partial(jax.tree.map, partial(jnp.where, terminated | truncated))
    new_observation, new_state = env.reset(key)
    return (
        pick(new_observation, observation),
        pick(new_state, state),
        reward,
        terminated,
        truncated,
        {"final_observation": observation},
    )


_PUSHES = np.array([[1.0, 0.0], [-0.5, 1.0], [0.2, -0.8]])
_KEPT, _PUSHED, _EDGE, _START, _LIMIT = 0.9, 0.3, 0.8, 0.5, 7


class Walk(eqx.Module):
    """A fully observed walk in the plane that is deterministic apart from its start.

    The observation `[3]` is `(x, y, time)`. A step moves to 0.9 (x, y) + 0.3 push, and the reward
    is x + y. An episode terminates if x > 0.8 and is truncated after 7 steps; both can happen at
    once. A recorded rollout can therefore be checked from its observations and actions alone,
    whatever its keys.
    """

    is_continuous: bool = eqx.field(static=True, default=False)
    """Whether a push is continuous, in ±0.5, or one of three."""
    time_limit: int = eqx.field(static=True, default=_LIMIT)
    """Steps until an episode is truncated."""

    def reset(self, key: Any) -> tuple:
        position = jax.random.uniform(key, (2,), minval=-_START, maxval=_START)
        state = {"position": position, "time": jnp.zeros((), jnp.int32)}
        return _observe(state), state

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        push = 2.0 * action if self.is_continuous else jnp.asarray(_PUSHES, jnp.float32)[action]
        position, time = _KEPT * state["position"] + _PUSHED * push, state["time"] + 1
        after = {"position": position, "time": time}
        ends = position[0] > _EDGE, time >= self.time_limit
        return finish(self, key, _observe(after), after, position.sum(), ends)

    def observation_space(self) -> Box:
        return Box(-jnp.inf, jnp.inf, (3,))

    def action_space(self) -> Box | Discrete:
        return Box(-0.5, 0.5, (2,)) if self.is_continuous else Discrete(3)


def _observe(state: Any) -> Any:
    return jnp.append(state["position"], state["time"].astype(jnp.float32))


class Outcome(NamedTuple):
    """The predicted outcome of a step of `Walk`, in float64."""

    observation: np.ndarray  # before any reset
    reward: float
    terminated: bool
    truncated: bool
    is_on_the_edge: bool  # so close to x = 0.8 that rounding decides whether it terminates


def predict(env: Walk, observation: Any, action: Any) -> Outcome:
    """The outcome that a step of `env` must have, computed independently of it.

    `action` is the action as sampled, before it is clipped to the box.
    """
    observation = np.asarray(observation, np.float64)
    if env.is_continuous:
        push = 2 * np.clip(np.asarray(action, np.float64), -0.5, 0.5)
    else:
        push = _PUSHES[int(action)]
    x, y = 0.9 * observation[:2] + 0.3 * push
    time = observation[2] + 1
    on_edge = bool(abs(x - 0.8) < 1e-4)
    after = np.array([x, y, time])
    return Outcome(after, float(x + y), bool(x > 0.8), bool(time >= env.time_limit), on_edge)


def is_start(observation: Any) -> bool:
    """Whether an episode can begin with this observation."""
    observation = np.asarray(observation)
    return bool(observation[2] == 0 and (np.abs(observation[:2]) <= _START).all())
