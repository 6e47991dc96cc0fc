"""`HostEnvironment`: environments that Python steps outside of JAX, as one `rlscan.Environment`."""

import secrets
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.experimental import io_callback
from jaxtyping import Array, Int, PRNGKeyArray

from .._core.spaces import space_shapes
from .._core.tree import where
from .._core.types import PyTree, StepResult

_MOST_POOLS = 4


class Stepped(NamedTuple):
    """What a step of N environments gives, in NumPy; every array is `[N, …]`."""

    observation: PyTree  # of the next episode, where one has ended
    reward: Any
    terminated: Any
    truncated: Any
    final_observation: PyTree  # of the episode that has ended; otherwise `observation`


class Pool(Protocol):
    """N environments on the host, which reset themselves in the step that ends an episode."""

    def reset(self) -> PyTree:
        """Start all episodes, and return the observations, `[N, …]`."""
        ...

    def step(self, actions: PyTree) -> Stepped:
        """Step all environments."""
        ...

    def close(self) -> None:
        """Give back what they hold."""
        ...


class HostEnvironment:
    """Environments on the host, N of which are stepped by one callback from the rollout.

    A callback rather than a loop on the host between jitted calls of the policy: training,
    evaluation and replay are then the same programs as for other environments, and the speed is
    about the same.

    Each `rlscan.init_rollout`, and so each evaluation, makes N environments of its own, each with a
    seed from its key. They cannot be copied, so a state that is stepped twice gives two different
    results, and a process that goes on with a saved state makes them again: their episodes are cut,
    with what was observed last, and a warning says so.
    """

    def __init__(
        self,
        make_pool: Callable[[list[int]], Pool],
        observation_space: Any,
        action_space: Any,
        *,
        name: str,
        time_limit: int | None = None,
    ):
        """**Arguments:**

        - `make_pool`: makes the environments for a list of N seeds.
        - `observation_space`, `action_space`: the spaces of one environment.
        - `name`: what to call it in messages.
        - `time_limit`: the number of steps until truncation, if no episode is truncated earlier.
        """
        self.name, self.time_limit = name, time_limit
        self._make_pool, self._spaces = make_pool, (observation_space, action_space)
        self._pools: OrderedDict[int, tuple[Pool, int]] = OrderedDict()
        self._shape = space_shapes(observation_space)
        self._open = _batched(self._open_on_host, self._shape_of_start)
        self._step = _batched(self._step_on_host, self._shape_of_step)

    keeps_state = True
    """Whether it keeps a state of its own, so that a step cannot be repeated."""

    def __repr__(self) -> str:
        return self.name

    def observation_space(self) -> Any:
        return self._spaces[0]

    def action_space(self) -> Any:
        return self._spaces[1]

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, "HostState"]:
        place, observation = self._open(jax.random.bits(key, (), jnp.uint32))
        return observation, HostState(place, observation)

    def step(self, key: PRNGKeyArray, state: "HostState", action: PyTree) -> StepResult:
        place, observation, final, outcome = self._step(state.place, action)
        reward, terminated, truncated, is_cut = outcome
        final = where(is_cut > 0, state.observation, final)
        after, ends = HostState(place, observation), (terminated > 0, truncated > 0)
        return observation, after, reward, *ends, {"final_observation": final}

    # On the host. Few arrays go there and back, because each costs more than what is in it.

    def _open_on_host(self, seeds: np.ndarray) -> tuple:
        return self._new_pool([int(seed) for seed in seeds])

    def _new_pool(self, seeds: list[int]) -> tuple[np.ndarray, PyTree]:
        while len(self._pools) >= _MOST_POOLS:
            self._pools.popitem(last=False)[1][0].close()  # the least recently used
        identity = secrets.randbits(31)  # another one in another process
        pool, num_envs = self._make_pool(seeds), len(seeds)
        self._pools[identity] = pool, num_envs
        place = np.stack([np.full(num_envs, identity), np.arange(num_envs)], axis=1)
        return place, pool.reset()

    def _step_on_host(self, place: np.ndarray, actions: PyTree) -> tuple:
        identity, num_envs = int(place[0, 0]), len(place)
        if identity not in self._pools:
            return self._cut(num_envs)
        pool, size = self._pools[identity]
        if size != num_envs or (place[:, 1] != np.arange(num_envs)).any():
            raise ValueError(
                f"{self.name} runs outside of JAX, so its {size} environments must be stepped "
                f"together and in order, got {num_envs} of them; init_rollout makes others"
            )
        self._pools.move_to_end(identity)
        seen, reward, terminated, truncated, final = pool.step(actions)
        outcome = np.stack([reward, terminated, truncated, np.zeros(num_envs)], axis=1)
        return place, seen, final, outcome

    def _cut(self, num_envs: int) -> tuple:
        """Go on with new environments: every episode is truncated where it was."""
        warnings.warn(
            f"the {num_envs} environments of {self.name} are gone: another process ran them, or "
            f"{_MOST_POOLS} others were made since; their episodes are cut, and new ones start",
            stacklevel=2,
        )
        place, seen = self._new_pool([secrets.randbits(31) for _ in range(num_envs)])
        return place, seen, seen, np.tile([0, 0, 1, 1], (num_envs, 1))

    # What the host returns for N environments.

    def _shape_of_start(self, num_envs: int) -> tuple:
        place = jax.ShapeDtypeStruct((num_envs, 2), jnp.int32)
        return place, _rows(num_envs, self._shape)

    def _shape_of_step(self, num_envs: int) -> tuple:
        place, seen = self._shape_of_start(num_envs)
        return place, seen, seen, jax.ShapeDtypeStruct((num_envs, 4), jnp.float32)


class HostState(eqx.Module):
    """Where an environment is on the host, and what it showed last."""

    place: Int[Array, "*N 2"]  # the pool, and the index in it
    observation: PyTree


def _rows(num_envs: int, shape: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_envs, *x.shape), x.dtype), shape)


def _batched(on_host: Callable, shape_for: Callable[[int], PyTree]) -> Callable:
    """A function of one environment which calls the host once for all that it is mapped over."""

    def call(num_envs: int, *arguments: PyTree) -> PyTree:
        shapes = shape_for(num_envs)

        def run(*arguments: PyTree) -> PyTree:
            result = on_host(*jax.tree.map(np.asarray, arguments))
            return jax.tree.map(lambda x, like: np.asarray(x, like.dtype), result, shapes)

        return io_callback(run, shapes, *arguments)

    @custom_vmap
    def one(*arguments: PyTree) -> PyTree:
        rows = jax.tree.map(lambda x: jnp.asarray(x)[None], arguments)
        return jax.tree.map(lambda x: x[0], call(1, *rows))

    @one.def_vmap
    def many(num_envs: int, is_batched: Any, *arguments: PyTree) -> tuple[PyTree, PyTree]:
        def rows(x: Any, is_batched: bool) -> Any:
            return x if is_batched else jnp.broadcast_to(x, (num_envs, *jnp.shape(x)))

        results = call(num_envs, *jax.tree.map(rows, arguments, tuple(is_batched)))
        return results, jax.tree.map(lambda _: True, results)

    return one
