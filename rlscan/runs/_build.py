"""Building what a config describes: environment, policy, loss, optimiser, hooks and the runs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array

from .._check.policy import check_policy
from .._core.screen import message_of
from .._core.types import Environment, Policy
from ..envs._make import check_exists, make
from ..envs._wrappers import FrameStack, LastActionReward, ObserveOnly
from ..nn._dropout import Schedule
from ..policies._normalized import NormalizedObservations
from ..ppo._algorithm import count_updates
from ..ppo._config import PPOConfig
from ..random._keys import key as make_key
from ._axes import PARAMS, split_sweep
from ._component import Component, build, is_own, require_methods
from ._config import Config
from ._schedules import built, checkable
from ._sweep import Member, read_sweep


def build_env(config: Config, *, run: int | None = None) -> Environment:
    """Build the environment; `ValueError` for parameters that it does not take.

    **Arguments:**

    - `config`: the config of the run.
    - `run`: the number of the run whose parameters it has, if they are swept. Without it they are
        arrays, which `in_own_env` sets.
    """
    env = _bare_env(config, run)
    if config.env.observe is not None:
        with _named("env.observe", instead_of="indices"):
            env = ObserveOnly(env, config.env.observe)
    if config.env.frame_stack > 1:
        with _named("env.frame_stack", instead_of="FrameStack"):
            env = FrameStack(env, config.env.frame_stack)
    return LastActionReward(env) if config.env.last_action_reward else env


def _bare_env(config: Config, run: int | None) -> Environment:
    if config.env.class_path is None:
        swept = members(config)[run or 0].swept
        params: dict[str, Any] = {
            key.removeprefix(PARAMS): jnp.asarray(number, jnp.float32) if run is None else number
            for key, number in swept.items()
            if key.startswith(PARAMS)
        }
        with _named("env.name"):
            check_exists(str(config.env.name))
        with _named("env.params"):
            return make(str(config.env.name), **{**config.env.params, **params})
    component = config.env.component
    env = build(component, key="env", allow=config.allow)
    what = "an environment, see rlscan.Environment"
    require_methods(env, ("reset", "step"), "env", component, what)
    return env


@contextmanager
def _named(key: str, *, instead_of: str = "") -> Iterator[None]:
    """Put the key of the config into an error's message, before it or `instead_of` its subject."""
    try:
        yield
    except (ValueError, TypeError) as error:
        message = str(error)
        if instead_of and message.startswith(instead_of):
            raise ValueError(key + message.removeprefix(instead_of)) from None
        raise ValueError(f"{key}: {message}") from None


def policy_factory(config: Config, env: Environment) -> Callable[..., Policy]:
    """Make the function that builds the policy of a run from its `key`.

    If numbers of the policy are swept, it has an array `[R]` for each, and is mapped over the runs.
    """
    runs = members(config)
    keys = [key for key in runs[0].swept if key.startswith("policy.")]
    values = {
        key.removeprefix("policy."): jnp.asarray([run.swept[key] for run in runs], jnp.float32)
        for key in keys
    }
    build_one = partial(build_policy, config, env)
    return _SweptPolicy(values, build_one) if keys else build_one


class _SweptPolicy(eqx.Module):
    """A function that makes a policy, with swept numbers among its arguments."""

    numbers: dict[str, Array]  # [R], or of one run when it is mapped over
    build: Callable[..., Policy] = eqx.field(static=True)

    def __call__(self, *, key: Any) -> Policy:
        return self.build(key=key, numbers=self.numbers)


def build_policy(
    config: Config, env: Environment, *, key: Any, numbers: Mapping[str, Any] | None = None
) -> Policy:
    """Build the untrained policy; `numbers` take the places of some of its arguments."""
    given = config.policy.component
    component = Component(given.class_path, {**given.init_args, **(numbers or {})})
    if config.policy.dropout_end is not None:
        component = Component(
            component.class_path, {**component.init_args, "dropout": _dropout(config)}
        )
    policy: Any = build(component, env, key="policy", allow=config.allow, rng=key)
    what = "a policy, see rlscan.Policy"
    require_methods(policy, ("__call__", "initial_state"), "policy", component, what)
    return NormalizedObservations(policy, env) if config.policy.normalize_observations else policy


def require_fit(config: Config, env: Environment) -> None:
    """Raise `ValueError` if a policy of one's own cannot act in the environment."""
    if is_own(config.policy.class_path):
        return

    def check(key: Any) -> None:
        check_policy(build_policy(config, env, key=key), env)

    try:
        eqx.filter_eval_shape(check, make_key(0, generator=config.generator))
    except Exception as error:  # a user's class may raise anything
        what = message_of(error)
        if what.startswith("policy: "):
            raise ValueError(what) from None
        raise ValueError(
            f"policy: {config.policy.class_path} cannot act in {config.env.title}, "
            f"{type(error).__name__}: {what}"
        ) from error


def build_algorithm(config: Config) -> Any:
    """Build what trains the policy: the settings of PPO, or another algorithm.

    **Returns:** a `PPOConfig`, with an array `[R]` for each number that is swept, or an
    `rlscan.ppo.Algorithm`.
    """
    if config.algorithm is None:
        return _with_swept_numbers(config)
    algorithm = build(config.algorithm, key="algorithm", allow=config.allow)
    what = "an algorithm, see rlscan.ppo.Algorithm"
    require_methods(algorithm, ("init", "update"), "algorithm", config.algorithm, what)
    return algorithm


def build_settings(config: Config) -> dict[str, Any]:
    """Build the arguments of `rlscan.train` that only PPO takes."""
    if config.algorithm is not None:
        return {}
    parts = {name: getattr(config, name) for name in ("loss", "optimizer", "on_batch")}
    functions = {
        name: build(component, key=name, allow=config.allow)
        for name, component in parts.items()
        if component is not None
    }
    return {"schedule_steps": config.schedule_steps, **functions}


def _with_swept_numbers(config: Config) -> PPOConfig:
    runs, ppo = members(config), built(config.ppo)
    for key in (key for key in runs[0].swept if key.startswith("ppo.")):
        values = jnp.asarray([run.swept[key] for run in runs], jnp.float32)
        name = key.removeprefix("ppo.")
        ppo = eqx.tree_at(lambda c: getattr(c, name), ppo, values)  # noqa: B023
    return ppo


def _dropout(config: Config) -> Schedule:
    """The rate of dropout, which changes to `dropout_end` over the run."""
    start, end = config.policy.init_args.get("dropout", 0.0), config.policy.dropout_end
    assert end is not None
    # The first update has the first rate and the last update the last one.
    horizon = config.schedule_steps or config.total_steps
    num_steps = max(count_updates(horizon, checkable(config.ppo)) - 1, 1)
    return optax.linear_schedule(start, end, num_steps)


def members(config: Config) -> list[Member]:
    """The runs that one program trains: each setting of the sweep with each of the seeds.

    The seeds of one setting are next to each other. Without a sweep or seeds, there is one run.
    """
    together = split_sweep(config.sweep, config.policy, config.env)[0]
    settings = read_sweep(together, num_samples=config.num_samples, seed=config.seed)
    seeds = range(config.seed, config.seed + config.num_seeds)
    return [Member(seed, setting) for setting in settings for seed in seeds]
