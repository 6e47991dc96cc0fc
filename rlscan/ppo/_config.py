"""`PPOConfig`: the settings of PPO, and their checks."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from .._core.field_docs import with_field_docs
from .._core.require import (
    as_plain,
    is_known,
    is_number,
    require_flag,
    require_one_of,
    require_positive,
)
from .._rollout.state import KEY_SCHEDULES, KeySchedule
from ._schedule import Number, Some, is_schedule, known_values, value_at


def _shape(default: Any) -> Any:
    """A count or flag, which shapes the program: each value compiles a program of its own."""

    def convert(x):
        return as_plain(x)  # NumPy's small integers would overflow in a product

    # What help and the command line show as the type of the setting.
    convert.__annotations__["x"] = type(default)
    return eqx.field(default=default, static=True, converter=convert)


# The types of the settings are those that a loss reads. A constructor takes what follows.


def _number(x: Some) -> Any:
    return x


def _scheduled(x: Number) -> Any:
    return x


@with_field_docs
class PPOConfig(eqx.Module):
    """Settings of PPO.

    Counts and flags shape the program. The other settings are numbers: the trainer makes them
    arrays, so that a new value does not compile again. They may also be arrays from the start, to
    be traced or mapped over.

    The learning rate, `clip_range`, `entropy_coef` and `gamma` may follow a schedule, counted in
    updates: an `rlscan.ppo.Schedule`, or a function of the number of updates made so far, such as
    optax's. A loss gets the settings of its update, with numbers in the place of schedules.
    """

    num_envs: int = _shape(4)
    """N, the number of environments that step in parallel."""
    num_steps: int = _shape(128)
    """T, the number of steps per environment and update."""
    num_epochs: int = _shape(4)
    """Number of passes over each rollout."""
    num_minibatches: int = _shape(4)
    """Number of gradient steps per pass. Must divide num_envs * num_steps, or num_envs if the
    policy is recurrent."""
    learning_rate: float = eqx.field(default=2.5e-4, converter=_scheduled)
    """The optimiser's learning rate at the start of the run, or its schedule."""
    anneal_learning_rate: bool = _shape(True)
    """Whether the learning rate decreases linearly, to 0 at the last gradient step. A schedule of
    the learning rate takes its place."""
    gamma: float = eqx.field(default=0.99, converter=_scheduled)
    """Discount per environment step, in [0, 1]."""
    gae_lambda: float = eqx.field(default=0.95, converter=_number)
    """GAE's lambda, in [0, 1]. 0 is TD(0), and 1 is Monte Carlo."""
    clip_range: float = eqx.field(default=0.2, converter=_scheduled)
    """Distance from 1 at which the probability ratio is clipped."""
    value_clip_range: float = eqx.field(default=math.inf, converter=_number)
    """Distance from the old value at which a value is clipped; .inf never clips."""
    value_coef: float = eqx.field(default=0.5, converter=_number)
    """Weight of the value loss."""
    entropy_coef: float = eqx.field(default=0.01, converter=_scheduled)
    """Weight of the entropy bonus."""
    max_grad_norm: float = eqx.field(default=0.5, converter=_number)
    """Global norm at which the gradient is clipped; .inf never clips."""
    target_kl: float = eqx.field(default=math.inf, converter=_number)
    """Estimated KL divergence (k3, in nats) of a minibatch at which an update stops early; .inf
    never stops."""
    adam_eps: float = eqx.field(default=1e-5, converter=_number)
    """Adam's epsilon. An optimiser of your own does not read it."""
    key_schedule: KeySchedule = eqx.field(default="step", static=True)
    """Time for which the policy keeps its noise: a step, an episode or a rollout."""
    shared_noise: bool = _shape(False)
    """Whether all environments share the same noise."""
    scale_rewards: bool = _shape(False)
    """Whether to divide rewards by the running standard deviation of the discounted return."""

    def as_arrays(self) -> "PPOConfig":
        """The same settings with every number a float32 array; functions stay as they are."""
        return self.map_numbers(lambda number: jnp.asarray(number, jnp.float32))

    def at(self, update: Int[Array, ""], num_updates: int | Int[Array, ""]) -> "PPOConfig":
        """The settings of one update, with numbers in the place of schedules.

        **Arguments:**

        - `update`: the number of updates made before it.
        - `num_updates`: that of the whole run.
        """
        scheduled = [name for name in SCHEDULED if is_schedule(getattr(self, name))]
        values = {name: value_at(getattr(self, name), update, num_updates) for name in scheduled}
        if "learning_rate" in values:
            values["anneal_learning_rate"] = False
        return dataclasses.replace(self, **values) if values else self

    def map_numbers(self, f: Callable[[Any], Any]) -> "PPOConfig":
        """The same settings with `f` of each number, those of an `rlscan.ppo.Schedule` included."""
        one = lambda x: x if callable(x) else f(x)  # noqa: E731
        return jax.tree.map(one, self, is_leaf=callable)

    def __repr__(self) -> str:
        shown = (
            f"  {field.name}={eqx.tree_pformat(getattr(self, field.name), short_arrays=False)},\n"
            for field in dataclasses.fields(self)
        )
        return f"PPOConfig(\n{''.join(shown)})"


SCHEDULED = ("learning_rate", "gamma", "clip_range", "entropy_coef")
"""The settings that may follow a schedule."""

for _field in dataclasses.fields(PPOConfig):  # the command line takes numbers
    if _field.type is float:
        PPOConfig.__init__.__annotations__[_field.name] = float

_COUNTS = ("num_envs", "num_steps", "num_epochs", "num_minibatches")

_FLAGS = ("anneal_learning_rate", "shared_noise", "scale_rewards")


# The numbers, as (names, test, words).
_NUMBERS = (
    (("gamma", "gae_lambda"), lambda x: 0 <= x <= 1, "in [0, 1]"),
    (
        ("learning_rate", "value_coef", "entropy_coef"),
        lambda x: 0 <= x < math.inf,
        "0 or more, and finite",
    ),
    (
        ("clip_range", "value_clip_range", "max_grad_norm", "target_kl", "adam_eps"),
        lambda x: x > 0,
        "above 0",
    ),
)


def check_config(
    config: PPOConfig, *, recurrent: bool = False, num_updates: int | None = None
) -> None:
    """Raise `ValueError` for an invalid setting. Traced numbers are not checked.

    **Arguments:**

    - `config`: the settings.
    - `recurrent`: whether a minibatch consists of whole environments, as a recurrent policy needs.
    - `num_updates`: of the whole run. A function is checked at its start, middle and end; without
        it, only at its start.
    """
    for name in _COUNTS:
        require_positive(name, getattr(config, name))
    for name in _FLAGS:
        require_flag(name, getattr(config, name))
    for names, is_allowed, words in _NUMBERS:
        for name in names:
            given = getattr(config, name)
            known = [(given, "")]
            if name in SCHEDULED:
                known = known_values(name, given, num_updates)
            for value, where in known:
                _check_number(name, value, is_allowed, words, where)
    require_one_of("key_schedule", config.key_schedule, KEY_SCHEDULES)
    samples, what = config.num_envs * config.num_steps, "num_envs * num_steps"
    if recurrent:
        samples, what = config.num_envs, "num_envs (the policy is recurrent)"
    if samples % config.num_minibatches:
        raise ValueError(
            f"{what} = {samples} is not divisible by num_minibatches = {config.num_minibatches}; "
            f"use {_near_divisors(samples, config.num_minibatches)}"
        )


def _check_number(
    name: str, given: Any, is_allowed: Callable[[float | int], bool], words: str, where: str
) -> None:
    """Check a number, or each one of several runs."""
    if not is_known(given):
        return
    for number in np.ravel(given) if eqx.is_array(given) else [given]:
        if not is_number(number):
            raise ValueError(f"{name} must be a number, got {given!r}{where}")
        if not is_allowed(number):
            raise ValueError(f"{name} must be {words}, got {as_plain(number)!r}{where}")


def _near_divisors(number: int, wanted: int) -> str:
    """The divisors nearest to the wanted one, as in `4, 5 or 10`."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    divisors = {*small, *(number // d for d in small)}
    nearest = sorted(sorted(divisors, key=lambda d: abs(d - wanted))[:3])
    *others, last = map(str, nearest)
    return f"{', '.join(others)} or {last}" if others else last
