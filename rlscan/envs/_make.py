"""`make`: environments by name, of gymnax or of another suite."""

from functools import lru_cache
from typing import Any

from .._core.require import did_you_mean
from .._core.types import Environment
from ._gymnax import (
    ENVIRONMENTS,
    check_name as check_gymnax_name,
    float_params as float_params_of_gymnax,
    make as make_gymnax,
)
from ._suites._table import SUITES, check_suite, load, suites


def make(name: str, **params: Any) -> Environment:
    """Make an environment by its name.

    **Arguments:**

    - `name`: one of `rlscan.envs.ENVIRONMENTS`, which are gymnax's; or `SUITE:NAME` for one of
        another suite, such as `brax:ant`. `rlscan.envs.suites()` lists the suites, and
        `rlscan.envs.environments(suite)` the names; [Suites](../guides/suites.md) says what each
        needs.
    - `params`: physical parameters of the environment (`gravity=3.7`, `max_steps_in_episode=200`)
        or arguments of its constructor (`num_bits=2`), by the suite's names.

    **Returns:** an `rlscan.Environment`. Its observations have the dtype that their space declares,
    its rewards are float32, and MinAtar's pixels are booleans.

    **Raises:** `ValueError`, with the nearest names, if there is no such suite, environment or
    parameter, or if the environment rejects a value; `ModuleNotFoundError` if the package of the
    suite is not installed.
    """
    check_exists(name)
    suite, name = split_name(name)
    if suite == "gymnax":
        return make_gymnax(name, **params)
    if suite not in SUITES or SUITES[suite].keeps_state:
        return _made(suite, name, **params)
    try:
        return _made_once(suite, name, **params)
    except TypeError:  # an argument that cannot be hashed
        return _made(suite, name, **params)


def _made(suite: str, name: str, **params: Any) -> Environment:
    try:
        return load(suite).make(name, **params)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # what another package raises may be anything
        raise ValueError(
            f"{suite}:{name} does not take {params}, {type(error).__name__}: {error}"
        ) from error


# The same object each time, because most suites' environments are equal only to themselves, and JAX
# would compile a program again for another one.
_made_once = lru_cache(maxsize=32, typed=True)(_made)


def environments(suite: str = "gymnax") -> tuple[str, ...]:
    """List the environments of a suite, by the names that `rlscan.make` takes after the colon.

    **Raises:** `ValueError` for an unknown suite; `ModuleNotFoundError`, with the `pip install`
    that mends it, if its package is not installed.
    """
    check_suite(suite)
    return ENVIRONMENTS if suite == "gymnax" else tuple(load(suite).names())


def split_name(name: str) -> tuple[str, str]:
    """The suite and the name within it."""
    suite, colon, rest = str(name).partition(":")
    return (suite, rest) if colon else ("gymnax", name)


def check_name(name: str) -> None:
    """Raise `ValueError` if there is no such suite, or no environment of gymnax of that name.

    Nothing is imported, so a name of another suite is checked by `make`.
    """
    suite, rest = split_name(name)
    check_suite(suite)
    if suite == "gymnax":
        check_gymnax_name(rest)
    elif not rest:
        raise ValueError(f"{name!r} names no environment; `rlscan envs {suite}` lists them")


def check_exists(name: str) -> None:
    """Raise as `make` does for a name alone: of no environment, or of a suite that is missing."""
    check_name(name)
    suite, rest = split_name(name)
    known = environments(suite)
    if rest not in known:
        raise ValueError(
            f"{suite} has no environment {rest!r}{did_you_mean(rest, known)}; "
            f"`rlscan envs {suite}` lists all"
        )


def is_name(text: str) -> bool:
    """Whether a text is the name of an environment, rather than the import path of a class."""
    suite, colon, _ = text.partition(":")
    return suite in suites() if colon else not set(".{") & set(text)


def keeps_state(name: str | None) -> bool:
    """Whether an environment of that name runs on the host, see `rlscan.Environment`."""
    suite, _ = split_name(name or "")
    return suite in SUITES and SUITES[suite].keeps_state


def float_params(name: str) -> frozenset[str]:
    """The parameters of an environment that a program has as arrays; none but of gymnax's."""
    suite, rest = split_name(name)
    return float_params_of_gymnax(rest) if suite == "gymnax" else frozenset()
