"""`Schedule`: a setting that changes from update to update."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from .._core.field_docs import with_field_docs
from .._core.require import as_plain, is_known, is_number, require_one_of

Kind = Literal["linear", "cosine", "constant"]
KINDS: tuple[Kind, ...] = ("linear", "cosine", "constant")

Some = float | int | Shaped[Array, "*R"] | Shaped[np.ndarray, "*R"]  # a number; one for each run


@with_field_docs
class Schedule(eqx.Module):
    """A schedule by name, for a setting of `rlscan.ppo.PPOConfig`.

    With u updates made of the run's n, and w of warm-up, the setting is

        start · u / w                                   for u < w,
        start + (end − start) p                         for "linear",
        end + (start − end) (1 + cos π p) / 2           for "cosine",
        start                                           for "constant",

    with p = (u − w) / (n − 1 − w), from 0 to 1: the last update has `end`. Numbers may be arrays
    `[R]`, one for each run.
    """

    kind: Kind = eqx.field(default="linear", static=True)
    """Its shape after the warm-up: linear, cosine or constant."""
    start: Some = eqx.field(kw_only=True)
    """The value of the first update, or after the warm-up."""
    end: Some = eqx.field(default=0.0, kw_only=True)
    """The value of the last update; a constant schedule does not read it."""
    warmup: Some = eqx.field(default=0, kw_only=True)
    """Number of updates from 0 to `start`."""

    def at(self, update: Int[Array, ""], num_updates: int | Int[Array, ""]) -> Float[Array, ""]:
        """Compute the value of an update.

        **Arguments:**

        - `update`: u, the number of updates made before it.
        - `num_updates`: n, of the whole run.
        """
        start, end, warmup = (jnp.asarray(x, jnp.float32) for x in self._numbers())
        made, last = jnp.asarray(update, jnp.float32), jnp.asarray(num_updates, jnp.float32) - 1
        p = jnp.clip((made - warmup) / jnp.maximum(last - warmup, 1), 0, 1)
        weight = {
            "linear": 1 - p,
            "cosine": (1 + jnp.cos(jnp.pi * p)) / 2,
            "constant": jnp.ones(()),
        }[self.kind]
        ramp = start * made / jnp.maximum(warmup, 1)
        return jnp.where(made < warmup, ramp, end + (start - end) * weight)

    def _numbers(self) -> tuple[Some, Some, Some]:
        return self.start, self.end, self.warmup


# `f(update) -> number`, with the number of updates made so far, a traced integer: optax's schedules
# among them.
Function = Callable[[Any], Any]

Number = Some | Schedule | Function


def is_schedule(setting: Any) -> bool:
    return isinstance(setting, Schedule) or callable(setting)


def value_at(setting: Any, update: Int[Array, ""], num_updates: int | Int[Array, ""]) -> Any:
    """The value of a setting in an update, whether it is a schedule or a number."""
    if isinstance(setting, Schedule):
        return setting.at(update, num_updates)
    return jnp.asarray(setting(update), jnp.float32) if callable(setting) else setting


def known_values(name: str, setting: Any, num_updates: int | None) -> list[tuple[Any, str]]:
    """The values of a setting that can be looked at, and where they are in its schedule.

    Those of a schedule are at its start, middle and end, between which the named ones lie.

    **Raises:** `ValueError` for a schedule that has no such value.
    """
    if isinstance(setting, Schedule):
        require_one_of(f"kind of the schedule of {name}", setting.kind, KINDS)
        _check_warmup(name, setting.warmup)
        ends = {"start": setting.start, "end": setting.end}
        if setting.kind == "constant":
            del ends["end"]
        values = [(x, f" as the {which} of its schedule") for which, x in ends.items()]
        if is_known(setting.warmup) and np.any(np.asarray(setting.warmup) > 0):
            values.append((0.0, ", where the warmup of its schedule starts"))
        return values
    if not callable(setting):
        return [(setting, "")]
    last = (num_updates or 1) - 1
    values = []
    for update in sorted({0, last // 2, last}):
        with jax.ensure_compile_time_eval():
            value = setting(jnp.asarray(update, jnp.int32))
        if not is_number(value):
            raise ValueError(
                f"a schedule of {name} must return one number, got {value!r} for update {update}"
            )
        values.append((value, f" for update {update} of its schedule"))
    return values


def _check_warmup(name: str, warmup: Any) -> None:
    if not is_known(warmup):
        return
    for number in np.ravel(np.asarray(warmup)):
        if not (is_number(number) and number >= 0 and number == round(float(number))):
            raise ValueError(
                f"warmup of the schedule of {name} must be a number of updates, 0 or more, got "
                f"{as_plain(number)!r}"
            )
