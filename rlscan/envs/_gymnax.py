"""gymnax's environments by name, adapted to `rlscan.Environment`."""

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from .._core.require import as_plain, did_you_mean
from .._core.tree import is_key, map_arrays
from .._core.types import Environment, PyTree
from ._eager import jitted
from ._import_gymnax import import_gymnax
from ._reset import reset_where

# Written out, so that a name can be checked without importing gymnax, which takes seconds. A test
# compares it with gymnax's own list. MNISTBandit-bsuite is left out because it downloads its data.
ENVIRONMENTS = (
    "CartPole-v1",
    "Pendulum-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Asterix-MinAtar",
    "Breakout-MinAtar",
    "Freeway-MinAtar",
    "Seaquest-MinAtar",
    "SpaceInvaders-MinAtar",
    "Catch-bsuite",
    "DeepSea-bsuite",
    "MemoryChain-bsuite",
    "UmbrellaChain-bsuite",
    "DiscountingChain-bsuite",
    "SimpleBandit-bsuite",
    "FourRooms-misc",
    "MetaMaze-misc",
    "PointRobot-misc",
    "BernoulliBandit-misc",
    "GaussianBandit-misc",
    "Reacher-misc",
    "Swimmer-misc",
    "Pong-misc",
    "FrozenLake-misc",
)


# Their pixels are 0 or 1 by construction, because each channel marks where a kind of object is.
# gymnax returns floats, which would take four bytes each in a trajectory.
BOOLEAN_ENVIRONMENTS = tuple(name for name in ENVIRONMENTS if name.endswith("-MinAtar"))


def make(name: str, **params: Any) -> Environment:
    """Make one of gymnax's environments, as `rlscan.make` describes it."""
    check_name(name)
    # JAX's arrays stay, because they may be traced or mapped over.
    params = {n: x if isinstance(x, jax.Array) else as_plain(x) for n, x in params.items()}
    with jax.enable_x64(False):
        return _make(name, params)


def _make(name: str, params: dict[str, Any]) -> Environment:
    probe, defaults = _registered(name)
    settings = vars(defaults)
    _check_params(name, params, settings, settings.keys() | _constructor_arguments(type(probe)))
    arguments = {param: value for param, value in params.items() if param not in settings}
    given = {
        # gymnax selects between parameters that must have one type, so 3 instead of 100.0 is 3.0.
        param: float(params[param])
        if isinstance(default, float) and type(params[param]) is int
        else params[param]
        for param, default in settings.items()
        if param in params
    }
    try:
        env, defaults = _registered(name, **arguments)
        adapted = GymnaxEnvironment(env, defaults.replace(**given))
        # gymnax does not check parameters. An invalid one raises in the first reset, so trace one.
        jax.eval_shape(lambda: adapted.reset(jax.random.key(0))[0])
    except Exception as error:
        raise ValueError(f"{name} does not take {params}: {error}") from error
    return adapted


def float_params(name: str) -> frozenset[str]:
    """The parameters of an environment that are numbers with a point: a program has them as arrays.

    Counts, such as a number of steps, may shape it.
    """
    _, defaults = _registered(name)
    return frozenset(n for n, default in vars(defaults).items() if isinstance(default, float))


@lru_cache(typed=True)
def _made_once(name: str, **arguments: Any) -> tuple[Any, Any]:
    return import_gymnax().make(name, **arguments)


def _registered(name: str, **arguments: Any) -> tuple[Any, Any]:
    """gymnax's environment and its parameters, the same object each time.

    gymnax's environments hold no state and are equal only to themselves, so JAX would compile a
    program again for another one.
    """
    try:
        return _made_once(name, **arguments)
    except TypeError:  # an argument that cannot be hashed, or one that gymnax refuses
        return import_gymnax().make(name, **arguments)


def _check_params(
    name: str, params: dict[str, Any], settings: dict[str, Any], known: set[str]
) -> None:
    for param, value in params.items():
        if param not in known:
            raise ValueError(
                f"{name} has no parameter {param!r}{did_you_mean(param, known)}; "
                f"it has {', '.join(sorted(known))}"
            )
        if isinstance(default := settings.get(param), int | float):
            wanted, fits = _requirement(param, default)
            plain = as_plain(value)
            if not (fits(plain) if isinstance(plain, int | float) else eqx.is_array_like(plain)):
                raise ValueError(
                    f"{param} of {name} must be {wanted}, such as {default}, got {value!r}"
                )


def _requirement(param: str, default: float | int) -> tuple[str, Callable[[float | int], bool]]:
    """The requirement on a parameter, in words and as a predicate of a Python number."""
    if isinstance(default, bool):
        return "true or false", lambda value: value in (0, 1)
    if param == "max_steps_in_episode":
        return (
            "a positive whole number",
            lambda value: value % 1 == 0 and 1 <= value < 2**31 and value is not True,
        )
    return "a number", _is_number


def _is_number(value: float | int) -> bool:
    """Whether a value is a number that float32, the dtype of the environments, can hold."""
    return not isinstance(value, bool) and abs(value) <= float(np.finfo(np.float32).max)


def check_name(name: str) -> None:
    """Raise `ValueError` if there is no environment of that name. It does not import gymnax."""
    if name not in ENVIRONMENTS:
        raise ValueError(
            f"unknown environment {name!r}{did_you_mean(name, ENVIRONMENTS)}; "
            "`rlscan.envs.ENVIRONMENTS` lists all"
        )


class GymnaxEnvironment(eqx.Module):
    """A gymnax environment (≥ 1.0) and its parameters, as an `rlscan.Environment`.

    MinAtar's observations, which are 0 or 1 by construction, are booleans and take a byte each.
    Parameters given as JAX arrays are leaves, so they can be traced and mapped over. Outside of
    compiled functions `reset` and `step` are jitted, as gymnax's own are. An episode is computed in
    32 bits under `jax_enable_x64` too, where some of gymnax's environments would fail.
    """

    env: Any
    """gymnax's environment."""
    params: Any
    """Its parameters. One that is an array may be changed, traced and mapped over."""

    def __repr__(self) -> str:
        """The name and all parameters; Equinox leaves out those that are as gymnax has them."""
        name = getattr(self.env, "name", type(self.env).__name__)
        return f"{type(self).__name__}(env={name}, params={self.params!r})"

    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        with jax.enable_x64(False):
            return jitted(GymnaxEnvironment._reset, self, key)

    def step(
        self, key: PRNGKeyArray, state: Any, action: Any
    ) -> tuple[PyTree, PyTree, Array, Array, Array, dict[str, Any]]:
        with jax.enable_x64(False):
            state, action = _in_32_bits((state, action))
            return jitted(GymnaxEnvironment._step, self, key, state, action)

    def _reset(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        observation, state = self.env.reset(key, self.params)
        return self._cast(observation), state

    def _step(
        self, key: PRNGKeyArray, state: Any, action: Any
    ) -> tuple[PyTree, PyTree, Array, Array, Array, dict[str, Any]]:
        observation, state, reward, terminated, truncated, info = self._auto_reset(
            key, state, action
        )
        info = {**info, "final_observation": self._cast(info["final_observation"])}
        reward = jnp.asarray(reward, jnp.float32)  # UmbrellaChain's is an integer
        return self._cast(observation), state, reward, terminated, truncated, info

    def _auto_reset(
        self, key: PRNGKeyArray, state: Any, action: Any
    ) -> tuple[PyTree, PyTree, Array, Array, Array, dict[str, Any]]:
        """gymnax's `step`, except that it draws a reset only when an episode ends."""
        from gymnax.environments.environment import Environment as Gymnax

        if type(self.env).step is not Gymnax.step:  # a wrapper, or an environment with its own step
            result = self.env.step(key, state, action, self.params)
            if len(result) != 6:
                raise ValueError(
                    f"{self.env.name}.step must return six values (gymnax >= 1.0), "
                    f"got {len(result)}; pip install 'gymnax>=1.0.1,<2'"
                )
            return result
        step_key, reset_key = jax.random.split(key)
        observation, state, reward, terminated, info = self.env.step_env(
            step_key, state, action, self.params
        )
        truncated = self.env.is_truncated(state, self.params)
        done = jnp.asarray(terminated, bool) | jnp.asarray(truncated, bool)
        info = {**info, "final_observation": observation, "final_state": state}
        observation, state = reset_where(
            done,
            lambda: self.env.reset_env(reset_key, self.params),
            (observation, state),
        )
        return observation, state, reward, terminated, truncated, info

    # gymnax computes some bounds with jnp. Under a trace they must still be constants.

    def observation_space(self) -> Any:
        with jax.ensure_compile_time_eval():
            space = self.env.observation_space(self.params)
        if not _is_boolean(self.env):
            return space
        from gymnax.environments.spaces import Box

        return Box(0, 1, space.shape, jnp.dtype(bool))

    def action_space(self) -> Any:
        with jax.ensure_compile_time_eval():
            return self.env.action_space(self.params)

    @property
    def time_limit(self) -> int | None:
        """The number of steps until truncation.

        `None` if it is an array, or if an episode may be truncated for another reason.
        """
        from gymnax.environments.environment import Environment as Gymnax

        limit = self.params.max_steps_in_episode
        by_time_alone = type(self.env).is_truncated is Gymnax.is_truncated
        return int(limit) if by_time_alone and isinstance(limit, int | float) else None

    def _cast(self, observation: PyTree) -> PyTree:
        """Cast an observation to its space's dtype; FourRooms declares floats, returns integers."""
        space = self.observation_space()
        return jnp.asarray(observation, space.dtype) if hasattr(space, "dtype") else observation


def _in_32_bits(tree: PyTree) -> PyTree:
    """Cast what was made under `jax_enable_x64`, while that is off."""
    return map_arrays(
        lambda x: x if is_key(x) else x.astype(jax.dtypes.canonicalize_dtype(x.dtype)), tree
    )


def _is_boolean(env: Any) -> bool:
    # A wrapper does not count, because it may change the observation.
    is_own = type(env).__module__.startswith("gymnax.environments.minatar.")
    return is_own and env.name in BOOLEAN_ENVIRONMENTS


def _constructor_arguments(cls: type) -> set[str]:
    """The names of the keyword arguments of an environment's constructor."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(cls).parameters.values()
    return {p.name for p in parameters if p.kind in kinds}
