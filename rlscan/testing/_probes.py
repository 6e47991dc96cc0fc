"""Probes: environments so small that the values of their best policy can be written down.

Each isolates one thing that an agent must get right, so that the one which fails says where to
look. All see one number, `[1]`, and have two actions.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ._spaces import Box, Discrete
from ._step import finish

_NOTHING_KNOWN = "nothing is known of this probe"


class Probe(eqx.Module):
    """An environment of two lines, what is seen and how it rewards and ends, with its values.

    By the contract of `rlscan.Environment`; write your own with the same two functions. An
    episode's kind is +1 or −1, by chance, and time counts its steps from 0.
    """

    look: Callable  # (kind, time) -> the number that is seen
    move: Callable  # (kind, time, action) -> (reward, terminated, truncated)
    known: Callable | None = None  # gamma -> {observation: V of the best policy}
    best: Callable | None = None  # observation -> its best action, 0 or 1
    time_limit: int | None = eqx.field(static=True, default=None)
    hint: str = eqx.field(static=True, default="")  # where to look if an agent gets it wrong

    @property
    def observations(self) -> tuple[float, ...]:
        """Those whose value is known. Of `memory`, what an episode shows first."""
        return () if self.known is None else tuple(self.known(0.5))

    def value(self, observation: Any, gamma: float) -> float:
        """V(observation), discounted, if one acts at best.

        **Arguments:**

        - `observation`: one of `observations`; a number, or an array of one.
        - `gamma`: γ, in [0, 1).

        **Raises:** `ValueError` for another observation, or another γ.
        """
        if not 0 <= gamma < 1:
            raise ValueError(f"gamma must be in [0, 1), got {gamma}")
        seen = self._one_of(observation)
        assert self.known is not None, _NOTHING_KNOWN
        return float(self.known(gamma)[seen])

    def best_action(self, observation: Any) -> int | None:
        """The best action, 0 or 1; `None` where both are as good.

        **Raises:** `ValueError` for an observation that is none of `observations`.
        """
        seen = self._one_of(observation)
        return None if self.best is None else int(self.best(seen))

    def _one_of(self, observation: Any) -> float:
        seen = float(jnp.reshape(jnp.asarray(observation), ()))
        if seen not in self.observations:
            raise ValueError(f"observation must be one of {self.observations}, got {observation}")
        return seen

    def reset(self, key: Any) -> tuple:
        state = jax.random.rademacher(key, (), jnp.float32), jnp.zeros((), jnp.int32)
        return self._see(*state), state

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        (kind, time), (reward, *ends) = state, self.move(*state, action)
        terminated, truncated = (jnp.asarray(end, bool) for end in ends)
        after, reward = (kind, time + 1), jnp.asarray(reward, jnp.float32)
        return finish(self, key, self._see(*after), after, reward, (terminated, truncated))

    def _see(self, kind: Any, time: Any) -> Any:
        return jnp.asarray(self.look(kind, time), jnp.float32).reshape(1)

    def observation_space(self) -> Box:
        return Box(-1.0, 1.0, (1,))

    def action_space(self) -> Discrete:
        return Discrete(2)


def any_of(probes: tuple[Probe, ...], which: Any) -> Probe:
    """The probe of a number that may be traced: one program, mapped over, trains on them all."""

    def look(*seen: Any) -> Any:
        branches = [lambda *s, p=p: jnp.asarray(p.look(*s), jnp.float32) for p in probes]
        return jax.lax.switch(which, branches, *seen)

    def move(*seen: Any) -> Any:
        def as_arrays(reward: Any, *ends: Any) -> tuple:
            return jnp.asarray(reward, jnp.float32), *(jnp.asarray(end, bool) for end in ends)

        branches = [lambda *s, p=p: as_arrays(*p.move(*s)) for p in probes]
        return jax.lax.switch(which, branches, *seen)

    return Probe(look, move)


def _nothing(kind: Any, time: Any) -> Any:
    return 0.0


def _kind(kind: Any, time: Any) -> Any:
    return kind


def _time(kind: Any, time: Any) -> Any:
    return time / 2


def _signed(action: Any) -> Any:
    return 2.0 * action - 1  # actions 0 and 1 as −1 and +1


constant_reward = Probe(
    _nothing,
    lambda kind, time, action: (1.0, True, False),
    known=lambda gamma: {0.0: 1.0},
    hint="Nothing follows, and nothing is to be chosen: look at the value loss and the optimiser",
)
"""One step, reward 1: V = 1."""

observation_reward = Probe(
    _kind,
    lambda kind, time, action: (kind, True, False),
    known=lambda gamma: {-1.0: -1.0, 1.0: 1.0},
    hint="The value must read the observation: look at whether rows stay together in a minibatch",
)
"""One step, which rewards with what is seen: V(s) = s."""

two_step = Probe(
    _time,
    lambda kind, time, action: (time, time == 1, False),
    known=lambda gamma: {0.0: gamma, 0.5: 1.0},
    hint="V(0) = γ V(½): look at the discount, and at which value follows a step",
)
"""Two steps, the second of which rewards with 1: V(0) = γ, V(½) = 1."""

action_reward = Probe(
    _nothing,
    lambda kind, time, action: (_signed(action), True, False),
    known=lambda gamma: {0.0: 1.0},
    best=lambda observation: 1,
    hint="Look at the policy's loss: the sign of the advantage, and whose log-probability it takes",
)
"""One step, reward +1 for action 1 and −1 for action 0: V = 1."""

both = Probe(
    _kind,
    lambda kind, time, action: (kind * _signed(action), True, False),
    known=lambda gamma: {-1.0: 1.0, 1.0: 1.0},
    best=lambda observation: int(observation > 0),
    hint="Look at whether actions stay in the rows of their observations",
)
"""One step, reward +1 for the action that is seen (1 at +1, 0 at −1), else −1: V = 1."""

truncation = Probe(
    _nothing,
    lambda kind, time, action: (1.0, False, time == 4),
    known=lambda gamma: {0.0: 1 / (1 - gamma)},
    time_limit=5,
    hint="A smaller value is that of a truncation taken for a termination",
)
"""Reward 1 for ever, cut at 5 steps: V = 1 / (1 − γ), and not Σ γᵗ up to 5.

The clock is not seen, as in the first example of Pardo et al., *Time Limits in Reinforcement
Learning*, 2018, arXiv:1712.00378."""

leak = Probe(
    _kind,
    lambda kind, time, action: (kind, False, time == 4),
    known=lambda gamma: {-1.0: -1 / (1 - gamma), 1.0: 1 / (1 - gamma)},
    time_limit=5,
    hint="Values nearer to 0 mix two episodes: look at whether the observation after a reset is "
    "bootstrapped from, and whether the trace is cut where an episode is",
)
"""Good and bad episodes, both cut at 5: V(s) = s / (1 − γ).

Whoever bootstraps from the observation after the reset mixes the two kinds, and finds much less."""

both_flags = Probe(
    _time,
    lambda kind, time, action: (1.0, time == 1, time == 1),
    known=lambda gamma: {0.0: 1 + gamma, 0.5: 1.0},
    hint="A larger value bootstraps where both flags are set: a termination wins over a truncation",
)
"""Two steps of reward 1, after which both flags are set: V(0) = 1 + γ, V(½) = 1."""

memory = Probe(
    lambda kind, time: jnp.where(time == 0, kind, 0.0),
    lambda kind, time, action: (jnp.where(time == 2, kind * _signed(action), 0), time == 2, False),
    known=lambda gamma: {-1.0: gamma**2, 1.0: gamma**2},
    hint="A value of 0 is that of an agent without memory: look at whether its state is carried, "
    "and where it is reset",
)
"""Three steps. Only the first observation, ±1, says which action the last one asks for.

V(first) = γ² with memory, 0 without. What is seen after it is 0, so that no other value is a
function of what is seen."""

PROBES: dict[str, Probe] = {
    "constant_reward": constant_reward,
    "observation_reward": observation_reward,
    "two_step": two_step,
    "action_reward": action_reward,
    "both": both,
    "truncation": truncation,
    "leak": leak,
    "both_flags": both_flags,
    "memory": memory,
}
"""All of them, from the easiest on; `memory` asks for a recurrent agent."""


def name_of(probe: Probe) -> str:
    """The name of a probe in `PROBES`; that of its class for another one."""
    return next((name for name, one in PROBES.items() if one is probe), type(probe).__name__)
