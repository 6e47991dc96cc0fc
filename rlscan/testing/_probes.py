"""Probe environments with known values, and checks of what an agent has learned on them.

A probe is so small that the values of its best policy can be written down. Each isolates one thing
that an agent must get right, so the probe that fails says where to look. Every probe has
observations of one number, `[1]`, and two actions.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rlscan

from ._conformance import require, require_close
from ._environments import Box, Discrete, finish


class Probe(eqx.Module):
    """An environment defined by two short functions, with its known values and best actions.

    It follows the contract of `rlscan.Environment`; write your own with the same two functions.
    Each episode is of a random kind, +1 or −1, and counts its steps from time 0.
    """

    look: Callable
    """`(kind, time) -> the observed number`."""
    move: Callable
    """`(kind, time, action) -> (reward, terminated, truncated)`."""
    known: Callable | None = None
    """`gamma -> {observation: V of the best policy}`; `None` if values are not known."""
    best: Callable | None = None
    """`observation -> the best action, 0 or 1`; `None` if both are equally good."""
    time_limit: int | None = eqx.field(static=True, default=None)
    """Steps until an episode is truncated; `None` if it has no limit."""
    hint: str = eqx.field(static=True, default="")
    """Where to look if an agent gets it wrong."""

    @property
    def observations(self) -> tuple[float, ...]:
        """The observations with known values; for `memory`, the first one of an episode."""
        return () if self.known is None else tuple(self.known(0.5))

    def value(self, observation: Any, gamma: float) -> float:
        """V(observation): the discounted return of the best policy.

        **Arguments:**

        - `observation`: one of `observations`, as a number or an array of one.
        - `gamma`: γ, in [0, 1).

        **Raises:** `ValueError` for any other observation or γ.
        """
        if not 0 <= gamma < 1:
            raise ValueError(f"gamma must be in [0, 1), got {gamma}")
        number = self._one_of(observation)
        assert self.known is not None  # else there are no `observations`
        return float(self.known(gamma)[number])

    def best_action(self, observation: Any) -> int | None:
        """The best action, 0 or 1; `None` if both are equally good.

        **Raises:** `ValueError` for an observation that is not one of `observations`.
        """
        number = self._one_of(observation)
        return None if self.best is None else int(self.best(number))

    def _one_of(self, observation: Any) -> float:
        number = float(jnp.reshape(jnp.asarray(observation), ()))
        if number not in self.observations:
            raise ValueError(f"observation must be one of {self.observations}, got {observation}")
        return number

    def reset(self, key: Any) -> tuple:
        state = jax.random.rademacher(key, (), jnp.float32), jnp.zeros((), jnp.int32)
        return self._observe(*state), state

    def step(self, key: Any, state: Any, action: Any) -> tuple:
        (kind, time), (reward, *ends) = state, self.move(*state, action)
        terminated, truncated = (jnp.asarray(end, bool) for end in ends)
        after, reward = (kind, time + 1), jnp.asarray(reward, jnp.float32)
        return finish(self, key, self._observe(*after), after, reward, (terminated, truncated))

    def _observe(self, kind: Any, time: Any) -> Any:
        return jnp.asarray(self.look(kind, time), jnp.float32).reshape(1)

    def observation_space(self) -> Box:
        return Box(-1.0, 1.0, (1,))

    def action_space(self) -> Discrete:
        return Discrete(2)


def any_of(probes: tuple[Probe, ...], which: Any) -> Probe:
    """One probe of several, chosen by an index that may be traced.

    A single program, mapped over the index, then trains on all of them.
    """

    def look(*arguments: Any) -> Any:
        branches = [lambda *a, p=p: jnp.asarray(p.look(*a), jnp.float32) for p in probes]
        return jax.lax.switch(which, branches, *arguments)

    def move(*arguments: Any) -> Any:
        def as_arrays(reward: Any, *ends: Any) -> tuple:
            return jnp.asarray(reward, jnp.float32), *(jnp.asarray(end, bool) for end in ends)

        branches = [lambda *a, p=p: as_arrays(*p.move(*a)) for p in probes]
        return jax.lax.switch(which, branches, *arguments)

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
    hint="Nothing follows the step, and the action does not matter: look at the value loss and "
    "the optimiser",
)
"""One step with reward 1: V = 1."""

observation_reward = Probe(
    _kind,
    lambda kind, time, action: (kind, True, False),
    known=lambda gamma: {-1.0: -1.0, 1.0: 1.0},
    hint="The value must depend on the observation: look at whether rows stay together in a "
    "minibatch",
)
"""One step whose reward is the observation: V(s) = s."""

two_step = Probe(
    _time,
    lambda kind, time, action: (time, time == 1, False),
    known=lambda gamma: {0.0: gamma, 0.5: 1.0},
    hint="V(0) = γ V(½): look at the discount, and at which value follows a step",
)
"""Two steps with rewards 0 and 1: V(0) = γ, V(½) = 1."""

action_reward = Probe(
    _nothing,
    lambda kind, time, action: (_signed(action), True, False),
    known=lambda gamma: {0.0: 1.0},
    best=lambda observation: 1,
    hint="Look at the policy loss: the sign of the advantage, and which log-probability it uses",
)
"""One step with reward +1 for action 1 and −1 for action 0: V = 1."""

both = Probe(
    _kind,
    lambda kind, time, action: (kind * _signed(action), True, False),
    known=lambda gamma: {-1.0: 1.0, 1.0: 1.0},
    best=lambda observation: int(observation > 0),
    hint="Look at whether actions stay in the rows of their observations",
)
"""One step with reward +1 for the action that matches the observation (1 at +1, 0 at −1), else −1.

V = 1."""

truncation = Probe(
    _nothing,
    lambda kind, time, action: (1.0, False, time == 4),
    known=lambda gamma: {0.0: 1 / (1 - gamma)},
    time_limit=5,
    hint="A smaller value is that of a truncation taken for a termination",
)
"""Reward 1 forever, truncated after 5 steps: V = 1 / (1 − γ), and not the sum of γᵗ up to 5.

The time is not observed, as in the first example of Pardo et al., *Time Limits in Reinforcement
Learning*, 2018, arXiv:1712.00378."""

leak = Probe(
    _kind,
    lambda kind, time, action: (kind, False, time == 4),
    known=lambda gamma: {-1.0: -1 / (1 - gamma), 1.0: 1 / (1 - gamma)},
    time_limit=5,
    hint="Values nearer to 0 mix two episodes: look at whether the observation after a reset is "
    "bootstrapped from, and whether the trace is cut at the end of an episode",
)
"""Good and bad episodes, both truncated after 5 steps: V(s) = s / (1 − γ).

An agent that bootstraps from the observation after the reset mixes the two kinds, and its values
are much smaller."""

both_flags = Probe(
    _time,
    lambda kind, time, action: (1.0, time == 1, time == 1),
    known=lambda gamma: {0.0: 1 + gamma, 0.5: 1.0},
    hint="A larger value bootstraps when both flags are set: a termination wins over a truncation",
)
"""Two steps with reward 1, after which both flags are set: V(0) = 1 + γ, V(½) = 1."""

memory = Probe(
    lambda kind, time: jnp.where(time == 0, kind, 0.0),
    lambda kind, time, action: (jnp.where(time == 2, kind * _signed(action), 0), time == 2, False),
    known=lambda gamma: {-1.0: gamma**2, 1.0: gamma**2},
    hint="A value of 0 is that of an agent without memory: look at whether its state is carried, "
    "and when it is reset",
)
"""Three steps; only the first observation, ±1, tells which action is rewarded at the last one.

V(first) = γ² with memory and 0 without. Later observations are 0, so no other value is a function
of the observation."""

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
"""All probes, the easiest first; `memory` needs a recurrent agent."""

FEEDFORWARD = tuple(name for name in PROBES if name != "memory")


def check_values(
    value_fn: Callable, probe: Probe, gamma: float, tolerance: float = 0.1, *, name: str = ""
) -> None:
    """Check a value function against the known values of a probe.

    **Arguments:**

    - `value_fn`: `value_fn(observation) -> value`, for an observation `[1]`; the value is a number
        or an array of one. A recurrent agent answers from its initial state.
    - `probe`: for example `rlscan.testing.two_step`.
    - `gamma`: the γ in [0, 1) that the agent was trained with.
    - `tolerance`: absolute up to a value of 1, relative beyond.
    - `name`: the probe's name in the message.

    **Raises:** `ConformanceError`, with where to look.
    """
    name = name or _name(probe)
    for observation in probe.observations:
        found = np.ravel(np.asarray(value_fn(jnp.array([observation])), np.float64))
        require(found.size == 1, "a value must be one number", f"{found.size}", "Squeeze the head")
        wanted = probe.value(observation, gamma)
        what = f"the value of {name} at {observation:g}, with γ = {gamma:g},"
        require_close(what, found[0], wanted, probe.hint, tolerance=tolerance)


def check_actions(act_fn: Callable, probe: Probe, *, name: str = "") -> None:
    """Check the most likely actions of an agent against the best actions of a probe.

    **Arguments:**

    - `act_fn`: `act_fn(observation) -> action`, for an observation `[1]`; the action is 0 or 1.
    - `probe`, `name`: as for `check_values`.

    **Raises:** `ConformanceError`, with where to look.
    """
    name = name or _name(probe)
    for observation in probe.observations:
        wanted = probe.best_action(observation)
        if wanted is not None:
            got = int(np.ravel(np.asarray(act_fn(jnp.array([observation]))))[0])
            required = f"{name} asks for action {wanted} at {observation:g}"
            require(got == wanted, required, got, probe.hint)


def check_agent(
    train_fn: Callable,
    *,
    total_steps: int = 16_384,
    gamma: float = 0.8,
    tolerance: float = 0.1,
    probes: Iterable[str] | Mapping[str, Probe] = FEEDFORWARD,
    key: Any = None,
) -> None:
    """Train an agent on each probe, and check the values and actions that it learns.

    The probes run from the easiest to the hardest. The first one that fails ends the check, and
    its message says where to look.

    **Arguments:**

    - `train_fn`: `train_fn(env, total_steps, key) -> (act_fn, value_fn)`, see `check_actions` and
        `check_values`. Either may be `None` if the agent has none. The agent must discount by
        `gamma`.
    - `total_steps`: environment steps for each probe.
    - `gamma`: the agent's γ, in [0, 1). It is small so that a probe takes seconds.
    - `tolerance`: of a value: absolute up to 1, relative beyond.
    - `probes`: names from `PROBES`, by default all but `memory`; or your own probes by name.
    - `key`: for training, consumed; the same for each probe. Defaults to `rlscan.key(0)`.

    **Raises:** `ConformanceError`.

    **Example:** `my_agent` expects a single `done` flag, as environments had before gymnax 1.0.

    ```python
    class OneDone:
        def __init__(self, env):
            self.env, self.reset = env, env.reset

        def step(self, key, state, action):
            result = self.env.step(key, state, action)
            observation, state, reward, terminated, truncated, info = result
            return observation, state, reward, terminated | truncated, info

    def train_fn(env, total_steps, key):
        network = my_agent.train(OneDone(env), total_steps, key)
        act_fn = lambda observation: network.preferences(observation).argmax()
        return act_fn, network.value

    rlscan.testing.check_agent(train_fn)  # fails on `truncation`: the two flags were merged
    ```
    """
    chosen = probes if isinstance(probes, Mapping) else {name: PROBES[name] for name in probes}
    for name, probe in chosen.items():
        act_fn, value_fn = train_fn(probe, total_steps, rlscan.key(0) if key is None else key)
        if value_fn is not None:
            check_values(value_fn, probe, gamma, tolerance, name=name)
        if act_fn is not None:
            check_actions(act_fn, probe, name=name)


def _name(probe: Probe) -> str:
    """The probe's name in `PROBES`, or the name of its class if it is not one of them."""
    return next((name for name, one in PROBES.items() if one is probe), type(probe).__name__)
