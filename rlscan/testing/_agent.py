"""`check_values` and `check_agent`: what an agent has learnt, on probes with known values."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

import rlscan

from ._error import require, require_close
from ._probes import PROBES, Probe, name_of

FEEDFORWARD = tuple(name for name in PROBES if name != "memory")


def check_values(
    value_fn: Callable, probe: Probe, gamma: float, tolerance: float = 0.1, *, name: str = ""
) -> None:
    """Checks a value function against the known values of a probe.

    **Arguments:**

    - `value_fn`: `value_fn(observation) -> value`, of an observation `[1]`: a number, or an array
        of one. A recurrent agent is asked from its initial state.
    - `probe`: such as `rlscan.testing.two_step`.
    - `gamma`: γ, in [0, 1), that the agent was trained with.
    - `tolerance`: relative where a value is beyond 1.
    - `name`: of the probe, for the message.

    **Raises:** `ConformanceError`, with where to look.
    """
    name = name or name_of(probe)
    for seen in probe.observations:
        found = np.ravel(np.asarray(value_fn(jnp.array([seen])), np.float64))
        require(found.size == 1, "a value must be one number", f"{found.size}", "Squeeze the head")
        wanted = probe.value(seen, gamma)
        what = f"the value of {name} at {seen:g}, with γ = {gamma:g},"
        require_close(what, found[0], wanted, probe.hint, tolerance=tolerance)


def check_actions(act_fn: Callable, probe: Probe, *, name: str = "") -> None:
    """Checks what an agent does, by its mode, against the best actions of a probe.

    **Arguments:**

    - `act_fn`: `act_fn(observation) -> action`, of an observation `[1]`: 0 or 1.
    - `probe`, `name`: as for `check_values`.

    **Raises:** `ConformanceError`, with where to look.
    """
    name = name or name_of(probe)
    for seen in probe.observations:
        wanted = probe.best_action(seen)
        if wanted is not None:
            done = int(np.ravel(np.asarray(act_fn(jnp.array([seen]))))[0])
            require(
                done == wanted, f"{name} asks for action {wanted} at {seen:g}", done, probe.hint
            )


def check_agent(
    train_fn: Callable,
    *,
    total_steps: int = 16_384,
    gamma: float = 0.8,
    tolerance: float = 0.1,
    probes: Iterable[str] | Mapping[str, Probe] = FEEDFORWARD,
    key: Any = None,
) -> None:
    """Trains an agent on each probe, and checks the values and actions that it finds.

    The probes come from the easiest on, and the first that fails ends the check: its message says
    where to look.

    **Arguments:**

    - `train_fn`: `train_fn(env, total_steps, key) -> (act_fn, value_fn)`, see `check_actions` and
        `check_values`; either may be `None` if the agent has none. It must discount by `gamma`.
    - `total_steps`: environment steps for each probe.
    - `gamma`: γ of the agent, in [0, 1). Small, so that a probe takes seconds.
    - `tolerance`: of a value, relative where it is beyond 1.
    - `probes`: names out of `PROBES`, by default all but `memory`; or your own probes by name.
    - `key`: of the training, consumed; the same for each probe. `rlscan.key(0)` if not given.

    **Raises:** `ConformanceError`.

    **Example:** `my_agent` knows one `done`, as environments had it before gymnax 1.0.

    ```python
    class OneDone:
        def __init__(self, env):
            self.env, self.reset = env, env.reset

        def step(self, key, state, action):
            seen, state, reward, terminated, truncated, info = self.env.step(key, state, action)
            return seen, state, reward, terminated | truncated, info

    def train_fn(env, total_steps, key):
        network = my_agent.train(OneDone(env), total_steps, key)
        act_fn = lambda seen: network.preferences(seen).argmax()
        return act_fn, network.value

    rlscan.testing.check_agent(train_fn)  # fails on `truncation`: the two ends are one
    ```
    """
    chosen = probes if isinstance(probes, Mapping) else {name: PROBES[name] for name in probes}
    for name, probe in chosen.items():
        act_fn, value_fn = train_fn(probe, total_steps, rlscan.key(0) if key is None else key)
        if value_fn is not None:
            check_values(value_fn, probe, gamma, tolerance, name=name)
        if act_fn is not None:
            check_actions(act_fn, probe, name=name)
