"""`Drafts`: the classes that a config names, while its files and options are read."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from .._core.require import did_you_mean, require_one_of
from ._arguments import Given, complete, loaded
from ._component import Component, as_component
from ._config import COMPONENTS, LISTS, LOGGER_CLASSES, OF_PPO, Call, EnvConfig, prefixed
from ._config_file import Setting
from ._policy_config import KINDS, without_other_kinds
from ._values import read_value


@dataclasses.dataclass
class Draft:
    """A class and its arguments."""

    class_path: str | None = None
    chosen_by: int = -1  # the number of the source, counted from the first file
    where: str = ""
    is_kind: bool = False  # whether it was named by `policy.kind`
    arguments: dict[str, Given] = dataclasses.field(default_factory=dict)


class Drafts:
    """The components of a config, given one setting after another."""

    def __init__(self, allow: Sequence[str]):
        self.allow = allow
        self._drafts = {name: Draft() for name in COMPONENTS}
        self._drafts["policy"].class_path = KINDS["mlp"][0]
        self._lists: dict[str, list[Any]] = {}
        self._latest: dict[str, tuple[int, str]] = {}  # the last source of other keys, by group

    def note(self, setting: Setting, source: int) -> None:
        """Remember which source gave a value to a key of PPO, or of an environment by name."""
        first, _, second = setting.key.partition(".")
        group = f"env.{second.partition('.')[0]}" if first == "env" else first
        if setting.value not in (None, "null", {}, "{}"):
            self._latest[group] = source, f"{setting.where}{setting.key}"

    def take(self, setting: Setting, source: int) -> None:
        """Take the value of a key that names a class, or an argument of one."""
        group, _, name = setting.key.partition(".")
        if group in OF_PPO:
            self.note(setting, source)
        if group in LISTS:
            self._lists[group] = _items(setting)
        elif name in ("", "class_path", "kind"):
            self._choose(group, name, setting, source)
        else:
            first, _, rest = name.removeprefix("init_args.").partition(".")
            arguments = self._drafts[group].arguments
            value = setting.value
            if rest:
                value = _within(arguments.pop(first, None), rest, setting)
            arguments[first] = Given(value, setting.got, setting.where, source)

    def _choose(self, group: str, name: str, setting: Setting, source: int) -> None:
        draft, path = self._drafts[group], setting.value
        if isinstance(path, str) and path.lstrip().startswith("{"):
            path = read_value(group, path, Any, got=setting.got, where=setting.where)
        if isinstance(path, dict):
            component = as_component(path, f"{setting.where}{group}")
            path = component.class_path
            for key, value in component.init_args.items():
                draft.arguments[key] = Given(value, str(value), setting.where, source)
        if path in ("null", None) and group != "policy":
            draft.class_path = None
            draft.arguments.clear()
            return
        if not isinstance(path, str):
            raise ValueError(
                f"{setting.where}{setting.key} must be an import path, such as my_module.MyClass, "
                f"got {setting.got}"
            )
        fixed: dict[str, Any] | None = None
        if name == "kind" or (group == "policy" and path in KINDS):
            with prefixed(f"{setting.where}policy."):
                require_one_of("kind", path, list(KINDS))
            path, fixed = KINDS[path]
            for key, value in fixed.items():
                draft.arguments[key] = Given(value, value, setting.where, source)
        draft.class_path, draft.chosen_by, draft.where = path, source, setting.where
        draft.is_kind = fixed is not None

    def finish(self, values: dict[str, Any]) -> dict[str, Any]:
        """Complete `values`, the other values of a `Config` by key, with the components.

        **Raises:** `ValueError` for a class that cannot be imported, or does not take what it is
        given, and for keys that do not go together.
        """
        found: dict[str, Any] = {}
        for name, call in COMPONENTS.items():
            draft = self._drafts[name]
            if name == "env" and not self._is_own_environment(values):
                self._refuse_arguments_of_nothing("env", draft)
                continue
            if draft.class_path is None:
                self._refuse_arguments_of_nothing(name, draft)
                continue
            found[name] = self._completed(name, draft, call)
        for name, call in LISTS.items():
            drafts = [as_component(item, f"{name}[{i}]") for i, item in enumerate(self._list(name))]
            found[name] = tuple(
                self._completed(f"{name}[{i}]", _draft_of(one), call)
                for i, one in enumerate(drafts)
            )
        self._check_algorithm(found)
        for name in ("env", "policy"):
            if name in found:
                component = found.pop(name)
                values[f"{name}.class_path"] = component.class_path
                values[f"{name}.init_args"] = component.init_args
        return {**values, **found}

    def _completed(self, key: str, draft: Draft, call: Call) -> Component:
        assert draft.class_path is not None
        arguments = draft.arguments
        with prefixed(draft.where):
            if draft.is_kind:
                plain = {name: loaded(one.value) for name, one in arguments.items()}
                kept = without_other_kinds(draft.class_path, plain)
                arguments = {name: one for name, one in arguments.items() if name in kept}
            return complete(
                draft.class_path,
                arguments,
                key=key,
                chosen_by=draft.chosen_by,
                allow=self.allow,
                **call._asdict(),
            )

    def _list(self, name: str) -> list[Any]:
        items = self._lists.get(name, [])
        if name != "loggers":
            return items
        for item in items:
            if isinstance(item, str) and item not in LOGGER_CLASSES and not set(".:") & set(item):
                raise ValueError(
                    f"loggers must be a list of {' and '.join(LOGGER_CLASSES)}, or of classes such "
                    f"as my_module.MyLogger, got {item}"
                )
        return [LOGGER_CLASSES.get(x, x) if isinstance(x, str) else x for x in items]

    def _is_own_environment(self, values: dict[str, Any]) -> bool:
        """Whether the environment is a class: the later of class and name counts."""
        draft = self._drafts["env"]
        if draft.class_path is None:
            return False
        for key in ("env.name", "env.params"):
            source, given = self._latest.get(key, (-1, ""))
            if source == draft.chosen_by:
                raise ValueError(f"{given} is given beside the class {draft.class_path}; keep one")
            if key == "env.name" and source > draft.chosen_by:
                draft.arguments = {k: v for k, v in draft.arguments.items() if v.source >= source}
                draft.class_path = None
                return False
        values.pop("env.params", None)
        values["env.name"] = None
        return True

    def _refuse_arguments_of_nothing(self, key: str, draft: Draft) -> None:
        for name, one in draft.arguments.items():
            known = ""
            if key == "env":
                names = [f.name for f in dataclasses.fields(EnvConfig)]
                known = did_you_mean(f"env.{name}", [f"env.{n}" for n in names])
            hint = known or f"; {key} names no class that could take it, such as {key}: my_module.X"
            what = f"{one.where}unknown key {key}" if one.where else f"unknown option --{key}"
            raise ValueError(f"{what}.{name}{hint}")

    def _check_algorithm(self, found: dict[str, Any]) -> None:
        draft = self._drafts["algorithm"]
        if draft.class_path is None:
            return
        for group in OF_PPO:
            source, given = self._latest.get(group, (-1, ""))
            if source >= draft.chosen_by:
                raise ValueError(
                    f"{given} is a setting of PPO, but algorithm is {draft.class_path}, which does "
                    "not read it; leave it out, or give it under algorithm.init_args"
                )
            found.pop(group, None)


def _draft_of(component: Component) -> Draft:
    arguments = {k: Given(v, str(v), "", 0) for k, v in component.init_args.items()}
    return Draft(component.class_path, 0, arguments=arguments)


def _items(setting: Setting) -> list[Any]:
    """The entries of a list of components; one alone counts as a list."""
    value = setting.value
    items = value if isinstance(value, list) else [value]
    found = []
    for item in items:
        if isinstance(item, str) and item.lstrip()[:1] in ("[", "{") or item in ("null", ""):
            item = read_value(setting.key, item, Any, got=setting.got, where=setting.where)
        found += item if isinstance(item, list) else [] if item is None else [item]
    for item in found:
        if not isinstance(item, str | dict):
            raise ValueError(
                f"{setting.where}{setting.key} must be a list of classes, such as [my_module.Stop]"
                f", got {setting.got}"
            )
    return found


def _within(before: Given | None, path: str, setting: Setting) -> dict[str, Any]:
    """An argument that is a class or a mapping itself, with one entry more."""
    value: Any = before.value if before is not None else {}
    if isinstance(value, str):  # --policy.encoder my_module.Cnn, then --policy.encoder.width 3
        value = {"class_path": value}
    value = {**value}
    name = path.removeprefix("init_args.")
    if "class_path" in value and path not in ("class_path", "init_args"):
        value["init_args"] = {**value.get("init_args", {}), name: setting.value}
    else:
        value[path] = setting.value
    return value
