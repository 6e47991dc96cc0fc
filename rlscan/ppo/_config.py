"""`PPOConfig`: the settings of PPO, and their checks."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._core.require import (
    as_plain,
    is_known,
    is_number,
    require_flag,
    require_one_of,
    require_positive,
)
from .._rollout.state import KEY_SCHEDULES, KeySchedule


def _shape(default: Any) -> Any:
    """A count or flag, which shapes the program: each value compiles a program of its own."""

    def convert(x):
        return as_plain(x)  # NumPy's small integers would overflow in a product

    # What help and the command line show as the type of the setting.
    convert.__annotations__["x"] = type(default)
    return eqx.field(default=default, static=True, converter=convert)


class PPOConfig(eqx.Module):
    """Settings of PPO.

    Counts and flags shape the program. The other settings are numbers: the trainer makes them
    arrays, so that a new value does not compile again. They may also be arrays from the start, to
    be traced or mapped over (`eqx.tree_at(lambda c: c.learning_rate, config, rates)`).
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
    learning_rate: float = 2.5e-4
    """Adam's learning rate at the start of the run."""
    anneal_learning_rate: bool = _shape(True)
    """Whether the learning rate decreases linearly, to 0 at the last gradient step."""
    gamma: float = 0.99
    """Discount per environment step, in [0, 1]."""
    gae_lambda: float = 0.95
    """GAE's lambda, in [0, 1]. 0 is TD(0), and 1 is Monte Carlo."""
    clip_range: float = 0.2
    """Distance from 1 at which the probability ratio is clipped."""
    value_clip_range: float = math.inf
    """Distance from the old value at which a value is clipped; .inf never clips."""
    value_coef: float = 0.5
    """Weight of the value loss."""
    entropy_coef: float = 0.01
    """Weight of the entropy bonus."""
    max_grad_norm: float = 0.5
    """Global norm at which the gradient is clipped; .inf never clips."""
    target_kl: float = math.inf
    """Estimated KL divergence (k3, in nats) of a minibatch at which an update stops early; .inf
    never stops."""
    adam_eps: float = 1e-5
    """Adam's epsilon."""
    key_schedule: KeySchedule = eqx.field(default="step", static=True)
    """Time for which the policy keeps its noise: a step, an episode or a rollout."""
    shared_noise: bool = _shape(False)
    """Whether all environments share the same noise."""
    scale_rewards: bool = _shape(False)
    """Whether to divide rewards by the running standard deviation of the discounted return."""

    def as_arrays(self) -> "PPOConfig":
        """The same settings with every number a float32 array."""
        return jax.tree.map(lambda number: jnp.asarray(number, jnp.float32), self)


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


def check_config(config: PPOConfig, *, recurrent: bool = False) -> None:
    """Raise `ValueError` for an invalid setting. Traced numbers are not checked.

    **Arguments:**

    - `config`: the settings.
    - `recurrent`: whether a minibatch consists of whole environments, as a recurrent policy needs.
    """
    for name in _COUNTS:
        require_positive(name, getattr(config, name))
    for name in _FLAGS:
        require_flag(name, getattr(config, name))
    for names, is_allowed, words in _NUMBERS:
        for name in names:
            _check_number(name, getattr(config, name), is_allowed, words)
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
    name: str, given: Any, is_allowed: Callable[[float | int], bool], words: str
) -> None:
    """Check a number, or each one of several runs."""
    if not is_known(given):
        return
    for number in np.ravel(given) if eqx.is_array(given) else [given]:
        if not is_number(number):
            raise ValueError(f"{name} must be a number, got {given!r}")
        if not is_allowed(number):
            raise ValueError(f"{name} must be {words}, got {as_plain(number)!r}")


def _near_divisors(number: int, wanted: int) -> str:
    """The divisors nearest to the wanted one, as in `4, 5 or 10`."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    divisors = {*small, *(number // d for d in small)}
    nearest = sorted(sorted(divisors, key=lambda d: abs(d - wanted))[:3])
    *others, last = map(str, nearest)
    return f"{', '.join(others)} or {last}" if others else last
