"""`Walk`: an environment that is known without asking it, for checks of rollouts."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._spaces import Box, Discrete
from ._step import finish

_PUSHES = np.array([[1.0, 0.0], [-0.5, 1.0], [0.2, -0.8]])
_KEPT, _PUSHED, _EDGE, _START, _LIMIT = 0.9, 0.3, 0.8, 0.5, 7


class Walk(eqx.Module):
    """A walk in the plane that is without chance but for where it starts, and seen whole.

    The observation `[3]` is `(x, y, time)`. A step moves to 0.9 (x, y) + 0.3 push and rewards with
    x + y. It terminates where x > 0.8, truncates at 7 steps, and at times does both. So what a
    rollout recorded can be judged from its observations and actions alone, whatever its keys.
    """

    is_continuous: bool = eqx.field(static=True, default=False)  # a push of ±0.5, or one of three
    time_limit: int = eqx.field(static=True, default=_LIMIT)

    def reset(self, key: Any) -> tuple:
        position = jax.random.uniform(key, (2,), minval=-_START, maxval=_START)
        state = {"position": position, "time": jnp.zeros((), jnp.int32)}
        return _see(state), state

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        push = 2.0 * action if self.is_continuous else jnp.asarray(_PUSHES, jnp.float32)[action]
        position, time = _KEPT * state["position"] + _PUSHED * push, state["time"] + 1
        after = {"position": position, "time": time}
        ends = position[0] > _EDGE, time >= self.time_limit
        return finish(self, key, _see(after), after, position.sum(), ends)

    def observation_space(self) -> Box:
        return Box(-jnp.inf, jnp.inf, (3,))

    def action_space(self) -> Box | Discrete:
        return Box(-0.5, 0.5, (2,)) if self.is_continuous else Discrete(3)


def _see(state: Any) -> Any:
    return jnp.append(state["position"], state["time"].astype(jnp.float32))


class Moved(NamedTuple):
    """What a step of `Walk` led to, in float64."""

    observation: np.ndarray  # before any reset
    reward: float
    terminated: bool
    truncated: bool
    is_on_the_edge: bool  # where rounding decides whether it terminated


def move(env: Walk, observation: Any, action: Any) -> Moved:
    """The step that `env` must make, written down apart from it, from the action as sampled."""
    observation = np.asarray(observation, np.float64)
    if env.is_continuous:
        push = 2 * np.clip(np.asarray(action, np.float64), -0.5, 0.5)
    else:
        push = _PUSHES[int(action)]
    x, y = 0.9 * observation[:2] + 0.3 * push
    time = observation[2] + 1
    on_edge = bool(abs(x - 0.8) < 1e-4)
    seen = np.array([x, y, time])
    return Moved(seen, float(x + y), bool(x > 0.8), bool(time >= env.time_limit), on_edge)


def is_start(observation: Any) -> bool:
    """Whether an episode can begin there."""
    observation = np.asarray(observation)
    return bool(observation[2] == 0 and (np.abs(observation[:2]) <= _START).all())
