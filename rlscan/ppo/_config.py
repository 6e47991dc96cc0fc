"""`PPOConfig`: the settings of PPO, and which of them cannot be."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._core.require import require_one_of, require_positive
from .._rollout.state import KEY_SCHEDULES, KeySchedule


def _shape(default: Any) -> Any:
    """A setting that shapes the program: another value compiles another one."""
    return eqx.field(default=default, static=True)


class PPOConfig(eqx.Module):
    """Settings of PPO.

    Counts and flags shape the program. The others are numbers: the trainer makes them arrays, so
    that another value compiles nothing anew, and arrays may stand in their place, to be traced
    or mapped over (`eqx.tree_at(lambda c: c.learning_rate, config, rates)`).
    """

    num_envs: int = _shape(4)
    """N, environments that step together."""
    num_steps: int = _shape(128)
    """T, steps of each environment per update."""
    num_epochs: int = _shape(4)
    """Passes over each rollout."""
    num_minibatches: int = _shape(4)
    """Gradient steps per pass; divides num_envs * num_steps."""
    learning_rate: float = 2.5e-4
    """Adam's step size at the start."""
    anneal_learning_rate: bool = _shape(True)
    """Whether the step size falls linearly, to 0 on the last gradient step."""
    gamma: float = 0.99
    """Discount per environment step, in [0, 1]."""
    gae_lambda: float = 0.95
    """Decay of the advantage's trace, in [0, 1]; 0 is TD(0), 1 is Monte Carlo."""
    clip_range: float = 0.2
    """How far from 1 the probability ratio is clipped."""
    value_clip_range: float = math.inf
    """How far from its old value a value is clipped; .inf for nowhere."""
    value_coef: float = 0.5
    """Weight of the value loss."""
    entropy_coef: float = 0.01
    """Weight of the entropy bonus."""
    max_grad_norm: float = 0.5
    """Where the gradient's global norm is clipped; .inf for nowhere."""
    target_kl: float = math.inf
    """Estimated KL (k3, in nats) of a minibatch at which an update ends; .inf for never."""
    adam_eps: float = 1e-5
    """Adam's epsilon."""
    key_schedule: KeySchedule = _shape("step")
    """How long a policy keeps its noise: for a step, an episode or a rollout."""
    shared_noise: bool = _shape(False)
    """Whether all environments have the same noise."""
    scale_rewards: bool = _shape(False)
    """Whether rewards are divided by the standard deviation of discounted returns so far."""

    def as_arrays(self) -> "PPOConfig":
        """The same settings with every number a float32 array."""
        return jax.tree.map(lambda number: jnp.asarray(number, jnp.float32), self)


_ONE_OR_MORE = ("num_envs", "num_steps", "num_epochs", "num_minibatches")


_FROM_0_TO_1 = ("gamma", "gae_lambda")


_FROM_0 = ("learning_rate", "value_coef", "entropy_coef")


_ABOVE_0 = ("clip_range", "value_clip_range", "max_grad_norm", "target_kl", "adam_eps")


def check_config(config: PPOConfig, *, recurrent: bool = False) -> None:
    """Raises `ValueError` for a setting that cannot be. Traced numbers pass unseen.

    **Arguments:**

    - `config`: the settings.
    - `recurrent`: whether minibatches are whole environments, as a recurrent policy needs them.
    """
    for name in _ONE_OR_MORE:
        require_positive(name, getattr(config, name))
    for name in ("anneal_learning_rate", "shared_noise", "scale_rewards"):
        if not isinstance(getattr(config, name), bool):
            raise ValueError(f"{name} must be True or False, got {getattr(config, name)!r}")
    for names, allowed, wanted in (
        (_FROM_0_TO_1, lambda x: 0 <= x <= 1, "in [0, 1]"),
        (_FROM_0, lambda x: 0 <= x < math.inf, "0 or more, and finite"),
        (_ABOVE_0, lambda x: x > 0, "above 0"),
    ):
        for name in names:
            number = getattr(config, name)
            if eqx.is_array(number):
                continue
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ValueError(f"{name} must be a number, got {number!r}")
            if not allowed(number):
                raise ValueError(f"{name} must be {wanted}, got {number!r}")
    require_one_of("key_schedule", config.key_schedule, KEY_SCHEDULES)
    samples, what = config.num_envs * config.num_steps, "num_envs * num_steps"
    if recurrent:
        samples, what = config.num_envs, "num_envs (the policy is recurrent)"
    if samples % config.num_minibatches:
        raise ValueError(
            f"{what} = {samples} is not divisible by num_minibatches = {config.num_minibatches}; "
            f"use {_near_divisors(samples, config.num_minibatches)}"
        )


def _near_divisors(number: int, wanted: int) -> str:
    """`4, 5 or 10`: the divisors nearest to the wanted one."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    nearest = sorted(sorted(divisors, key=lambda d: abs(d - wanted))[:3])
    *others, last = map(str, nearest)
    return f"{', '.join(others)} or {last}" if others else last
