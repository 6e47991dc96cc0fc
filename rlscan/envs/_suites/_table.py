"""The suites whose environments `rlscan.make` adapts, as data, and those that packages bring."""

import dataclasses
import importlib
import importlib.metadata
from typing import Any

from ..._core.require import did_you_mean, require_extra
from ..._core.versions import warn_if_untested

GROUP = "rlscan.environments"
"""The group of entry points by which a package brings a suite of its own."""


@dataclasses.dataclass(frozen=True)
class Suite:
    """A suite of environments that belongs to an extra of rlscan."""

    name: str  # before the colon, of the extra, and of the file in this folder
    package: str  # on PyPI
    module: str  # to import
    tested: tuple[str, str]  # the oldest and the newest version of the package
    keeps_state: bool = False  # outside of the states that it returns, as a simulator on the host


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("gymnasium", "gymnasium", "gymnasium", ("1.3.0", "1.3.0"), keeps_state=True),
        Suite("playground", "playground", "mujoco_playground", ("0.2.0", "0.2.0")),
        Suite("brax", "brax", "brax", ("0.14.2", "0.14.2")),
        Suite("jumanji", "jumanji", "jumanji", ("1.1.2", "1.1.2")),
        Suite("craftax", "craftax", "craftax", ("1.6.1", "1.6.1")),
        Suite("xland", "xminigrid", "xminigrid", ("0.9.3", "0.9.3")),
        Suite("pgx", "pgx", "pgx", ("2.6.0", "2.6.0")),
    )
}


def suites() -> tuple[str, ...]:
    """List the suites that `rlscan.make` knows: gymnax, those of extras, and packages' own.

    A package brings a suite by an entry point of the group `rlscan.environments`. Its name is what
    stands before the colon in `rlscan.make("SUITE:NAME")`. It loads to an object with two
    functions: `names()` lists the environments, and `make(name, **params)` makes one.
    """
    return ("gymnax", *SUITES, *sorted(set(_entry_points()) - {"gymnax", *SUITES}))


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def check_suite(name: str) -> None:
    """Raise `ValueError` if there is no such suite. Nothing is imported."""
    if name not in suites():
        raise ValueError(
            f"unknown suite {name!r}{did_you_mean(name, suites())}; `rlscan envs` lists all"
        )


def is_installed(name: str) -> bool:
    """Whether the package of a suite can be imported."""
    try:
        _require_installed(name)
    except ModuleNotFoundError:
        return False
    return True


def _require_installed(name: str) -> None:
    if name in SUITES:
        suite = SUITES[name]
        require_extra(f"the environments of {suite.package}", suite.name, suite.module)


def load(name: str) -> Any:
    """Import a suite other than gymnax.

    **Raises:** `ModuleNotFoundError`, with the `pip install` that mends it, if its extra is
    missing; `ValueError` if an entry point does not load, or lacks a function.
    """
    check_suite(name)
    _require_installed(name)
    if name in SUITES:
        warn_if_untested({SUITES[name].package: SUITES[name].tested})
        return importlib.import_module(f"{__package__}._{name}")
    point = _entry_points()[name]
    try:
        found = point.load()
    except Exception as error:  # what a package raises may be anything
        raise ValueError(
            f"the entry point {point.value} of the suite {name} does not load, "
            f"{type(error).__name__}: {error}"
        ) from error
    lacks = [f for f in ("names", "make") if not callable(getattr(found, f, None))]
    if lacks:
        raise ValueError(
            f"the entry point {point.value} of the suite {name} must have the functions names() "
            f"and make(name, **params), got {found!r} without {' and '.join(lacks)}"
        )
    return found
