"""gymnax, imported without the plotting libraries that only its drawings need."""

import importlib
import sys
from types import ModuleType
from typing import Any

# Together they take about as long to import as JAX and Equinox.
_PLOTTING = ("matplotlib", "matplotlib.pyplot", "seaborn")


_importing = False


def import_gymnax() -> ModuleType:
    """gymnax. What its modules import for plotting is loaded when it is first used."""
    global _importing
    if any(name in sys.modules for name in ("gymnax", *_PLOTTING)):
        return importlib.import_module("gymnax")
    sys.modules.update({name: _Later(name) for name in _PLOTTING})
    _importing = True
    try:
        return importlib.import_module("gymnax")
    finally:
        # From here on whoever imports them gets the real ones, and the placeholders find those.
        _importing = False
        for name in _PLOTTING:
            del sys.modules[name]


class _Later(ModuleType):
    """Stands for a module, or for something in it, until that is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if not _importing:
            return getattr(_real(self.__name__), name)
        inside = _Later(f"{self.__name__}.{name}")
        setattr(self, name, inside)
        return inside

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _real(self.__name__)(*args, **kwargs)


def _real(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        parent, _, last = name.rpartition(".")
        if not parent:
            raise
        return getattr(_real(parent), last)
