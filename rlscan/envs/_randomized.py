"""`RandomizedParams`: a wrapper that draws an environment's parameters for each episode."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from .._core.environment import reset_env, step_env
from .._core.require import as_plain, did_you_mean, is_number
from .._core.tree import as_strong_arrays
from .._core.types import Environment, PyTree, StepResult
from ._reset import reset_where
from ._wrappers import Wrapper

Randomize = Callable[[PRNGKeyArray, Any], Any]


class RandomizedParams(Wrapper):
    """An environment with other parameters in each episode: domain randomisation.

    Each of the N environments draws its own at the start of each of its episodes, from the key of
    the reset. They are part of its state, so the draws depend neither on N nor on the devices.

    **Example:** a pendulum whose gravity and mass are uniform in intervals.

    ```python
    import rlscan

    env = rlscan.make("Pendulum-v1")
    env = rlscan.envs.RandomizedParams(env, {"g": (8.0, 12.0), "m": (0.8, 1.2)})
    ```
    """

    ranges: tuple[tuple[str, float, float], ...] = eqx.field(static=True)
    """The name and the bounds of each parameter that is drawn uniformly."""
    randomize: Randomize | None = eqx.field(static=True)
    """The function that draws the environment in their place."""

    def __init__(self, env: Environment, params: Mapping[str, Any] | Randomize):
        """**Arguments:**

        - `env`: an environment that is a pytree, as an `eqx.Module` is. What is drawn replaces
            leaves of it: numbers or arrays.
        - `params`: intervals by the name of a parameter, an attribute of `env.params`, which is
            drawn uniformly. Or a function `randomize(key, env)` that returns the environment with
            other leaves, such as `eqx.tree_at(lambda e: e.mass, env, jax.random.uniform(key))`.

        **Raises:** `ValueError` for an unknown parameter or an empty interval; `TypeError` if
        `params` is neither intervals nor a function.
        """
        self.env = env
        if isinstance(params, Mapping):
            self.ranges, self.randomize = tuple(_checked(env, params)), None
        elif callable(params):
            self.ranges, self.randomize = (), params
        else:
            raise TypeError(
                "params must be intervals by name, such as {'gravity': (8.0, 12.0)}, or a function "
                f"randomize(key, env), got {params!r}"
            )

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, "RandomizedParamsState"]:
        params_key, reset_key = jax.random.split(key)
        drawn = self._draw(params_key)
        observation, state = reset_env(self._env_with(drawn), reset_key)
        return observation, RandomizedParamsState(state, drawn)

    def step(self, key: PRNGKeyArray, state: "RandomizedParamsState", action: PyTree) -> StepResult:
        step_key, reset_key = jax.random.split(key)
        observation, inner, reward, terminated, truncated, info = step_env(
            self._env_with(state.drawn), step_key, state.env_state, action
        )
        # The inner environment has reset itself with the parameters of the old episode.
        observation, after = reset_where(
            terminated | truncated,
            lambda: self.reset(reset_key),
            (observation, RandomizedParamsState(inner, state.drawn)),
        )
        return observation, after, reward, terminated, truncated, info

    @property
    def time_limit(self) -> int | None:
        """The inner environment's time limit; `None` if it has none, or if it is drawn."""
        drawn = jax.eval_shape(self._draw, jax.random.key(0))
        return getattr(self._env_with(drawn), "time_limit", None)

    def _draw(self, key: PRNGKeyArray) -> tuple[PyTree, ...]:
        """Draw the leaves that are replaced, with `None` for each of the others."""
        leaves = jax.tree.leaves(self._randomized(key))
        return tuple(None if self._is_own(x) else as_strong_arrays(x) for x in leaves)

    def _env_with(self, drawn: tuple[PyTree, ...]) -> Any:
        found = []
        # The trace tells the structure, and the leaves that stay.
        jax.eval_shape(lambda key: found.append(self._randomized(key)), jax.random.key(0))
        leaves, structure = jax.tree.flatten(found[0])
        pairs = zip(drawn, leaves, strict=True)
        return jax.tree.unflatten(structure, [old if new is None else new for new, old in pairs])

    def _randomized(self, key: PRNGKeyArray) -> Any:
        return self._uniform(key) if self.randomize is None else self.randomize(key, self.env)

    def _is_own(self, leaf: Any) -> bool:
        """Whether a leaf is one of the environment as it is given."""
        return not eqx.is_array_like(leaf) or any(leaf is x for x in jax.tree.leaves(self.env))

    def _uniform(self, key: PRNGKeyArray) -> Any:
        keys = jax.random.split(key, len(self.ranges))
        drawn = [
            jax.random.uniform(one, (), minval=low, maxval=high)
            for one, (_, low, high) in zip(keys, self.ranges, strict=True)
        ]
        names = [name for name, *_ in self.ranges]
        return eqx.tree_at(lambda env: [getattr(env.params, n) for n in names], self.env, drawn)


class RandomizedParamsState(eqx.Module):
    """The state of a `RandomizedParams`."""

    env_state: PyTree
    drawn: tuple[PyTree, ...]  # the leaves of the environment that the episode has


def _checked(env: Any, params: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """The intervals as `(name, low, high)`, sorted by name, so that their order draws the same."""
    known = vars(env.params) if hasattr(env, "params") else {}
    if not params:
        raise ValueError("params must have an interval at least, got none")
    found = []
    for name, interval in sorted(params.items()):
        if name not in known:
            raise ValueError(
                f"{env!r} has no parameter {name!r}{did_you_mean(name, known)}; give a function "
                "randomize(key, env) for an environment without `params`"
            )
        ends: Any = tuple(interval) if isinstance(interval, tuple | list) else ()
        low, high = map(as_plain, ends if len(ends) == 2 else ("", ""))
        if not (is_number(low) and is_number(high) and low < high):
            raise ValueError(
                f"params[{name!r}] must be an interval (low, high), low < high, got {interval!r}"
            )
        if not isinstance(known[name], float):
            raise ValueError(
                f"params[{name!r}] must be a parameter that is a number with a point, got "
                f"{known[name]!r}; a count may shape the program"
            )
        found.append((name, float(low), float(high)))
    return found
