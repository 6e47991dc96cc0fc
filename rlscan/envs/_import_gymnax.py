"""Import gymnax without the plotting libraries, which only its drawings need.

gymnax imports matplotlib and seaborn at the top of its modules. Together they take about as long
to import as JAX and Equinox. While gymnax is imported, placeholders stand in `sys.modules` for
them, and a placeholder loads the real module when it is first used.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

_PLOTTING = ("matplotlib", "matplotlib.pyplot", "seaborn")

_is_importing = False


def import_gymnax() -> ModuleType:
    """Import gymnax, and defer its plotting libraries until they are used."""
    global _is_importing
    if any(name in sys.modules for name in ("gymnax", *_PLOTTING)):
        return importlib.import_module("gymnax")
    sys.modules.update({name: _Placeholder(name) for name in _PLOTTING})
    _is_importing = True
    try:
        return importlib.import_module("gymnax")
    finally:
        # From here on every import gets the real modules, and so do the placeholders.
        _is_importing = False
        for name in _PLOTTING:
            del sys.modules[name]


class _Placeholder(ModuleType):
    """A placeholder for a module, or for an object in it, that is imported on first use."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if not _is_importing:
            return getattr(_load(self.__name__), name)
        attribute = _Placeholder(f"{self.__name__}.{name}")
        setattr(self, name, attribute)
        return attribute

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _load(self.__name__)(*args, **kwargs)


def _load(name: str) -> Any:
    """Import a module by its dotted name, or an object inside of a module."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        parent, _, last = name.rpartition(".")
        if not parent:
            raise
        return getattr(_load(parent), last)
