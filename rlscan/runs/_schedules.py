"""Schedules in a config: by name, or a function of one's own."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from .._core.schema import structured
from ..ppo._config import SCHEDULED, PPOConfig
from ..ppo._schedule import KINDS, Kind, Schedule
from ._arguments import Given, complete
from ._component import Component, as_component, build, is_allowed, is_component, require_allowed


@dataclasses.dataclass(frozen=True)
class _Named:
    """The mapping of a schedule by name, in a file."""

    start: float
    end: float = 0.0
    warmup: int = 0
    kind: Kind = KINDS[0]


@dataclasses.dataclass(frozen=True)
class FunctionSchedule(Component):
    """A schedule that is a function of the update, such as one of optax's, by its import path."""

    allow: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)
    """The modules that may be built, see `find`."""
    key: str = dataclasses.field(default="", compare=False, repr=False)

    def __call__(self, update: Any) -> Any:
        return self.function()(update)

    def function(self) -> Callable[[Any], Any]:
        """Build it."""
        return build(self, key=self.key, allow=self.allow)

    @property
    def is_allowed(self) -> bool:
        """Whether it may be built."""
        return is_allowed(self.class_path, self.allow)


def read_schedule(value: Any, *, key: str, where: str = "", allow: Sequence[str] = ()) -> Any:
    """Make a schedule from its mapping in a config.

    **Arguments:**

    - `value`: `{kind: cosine, start: 3e-4, end: 0.0, warmup: 10}`, or a class or function by
        `class_path` with `init_args`, which is called with the number of updates made so far.
    - `key`, `where`: the key of the config, and the file and line, for errors.
    - `allow`: see `find`.

    **Raises:** `ValueError` for a mapping of another form.
    """
    if not is_component(value):
        return Schedule(**vars(structured(_numbers(value), _Named, f"{where}{key}")))
    component = as_component(value, f"{where}{key}")
    arguments = {k: Given(v, str(v), where, 0) for k, v in component.init_args.items()}
    found = complete(
        component.class_path, arguments, key=key, chosen_by=0, allow=allow, may_lack=True
    )
    return FunctionSchedule(found.class_path, found.init_args, tuple(allow), key)


def _numbers(value: Any) -> Any:
    """The mapping with its numbers as such: YAML reads 3e-4 as text."""
    from jsonargparse import get_loader

    if not isinstance(value, dict):
        return value
    load = get_loader("yaml")
    return {k: load(v) if isinstance(v, str) and k != "kind" else v for k, v in value.items()}


def schedule_tree(schedule: Any) -> Any:
    """The mapping that `read_schedule` reads; numbers stay what they are."""
    if isinstance(schedule, FunctionSchedule):
        return {"class_path": schedule.class_path, "init_args": schedule.init_args}
    if isinstance(schedule, Schedule):
        return {name: getattr(schedule, name) for name in ("kind", "start", "end", "warmup")}
    return schedule


def checkable(ppo: PPOConfig) -> PPOConfig:
    """The settings without the schedules that may not be built, which cannot be checked."""
    defaults = {field.name: field.default for field in dataclasses.fields(PPOConfig)}
    values = {name: getattr(ppo, name) for name in SCHEDULED}
    hidden = {
        name: defaults[name]
        for name, value in values.items()
        if isinstance(value, FunctionSchedule) and not value.is_allowed
    }
    return dataclasses.replace(ppo, **hidden) if hidden else ppo


def built(ppo: PPOConfig) -> PPOConfig:
    """The settings with their functions built, once rather than in each call.

    **Raises:** `ValueError` if one may not be built, or its call fails.
    """
    values = {name: getattr(ppo, name) for name in SCHEDULED}
    functions = {k: x for k, x in values.items() if isinstance(x, FunctionSchedule)}
    for one in functions.values():
        require_allowed(one, key=one.key, allow=one.allow)
    return dataclasses.replace(ppo, **{k: x.function() for k, x in functions.items()})
