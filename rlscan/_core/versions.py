"""The versions of packages that rlscan is tested with, and a warning about others."""

import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

TESTED = {
    "jax": ("0.10.2", "0.11.2"),
    "equinox": ("0.13.8", "0.13.8"),
    "gymnax": ("1.0.1", "1.0.1"),
    "distrax": ("0.1.9", "0.1.9"),
    "optax": ("0.2.8", "0.2.8"),
}
"""The oldest and the newest version that the test suite passes with.

They are the pins of `constraints-oldest.txt`, and the newest of the two other constraints files; a
test compares them.
"""

_asked: set[str] = set()  # packages about which a warning was given, or was not needed


def warn_if_untested(packages: Mapping[str, tuple[str, str]] = TESTED) -> None:
    """Warn about installed packages whose versions lie outside of their tested ranges.

    Each package is looked at once in a process, so this costs nothing in a loop. A package that is
    not installed is passed over.

    **Arguments:**

    - `packages`: the oldest and the newest tested version of each package, both included.
    """
    names = [name for name in packages if name not in _asked]
    if not names:
        return
    from packaging.version import Version  # not at the top, because it is only needed here

    _asked.update(names)
    for name in names:
        try:
            found = version(name).partition("+")[0]  # without the name of a build, as in `+cuda12`
        except PackageNotFoundError:
            continue
        oldest, newest = packages[name]
        if not Version(oldest) <= Version(found) <= Version(newest):
            tested = oldest if oldest == newest else f"{oldest} to {newest}"
            warnings.warn(
                f"rlscan is tested with {name} {tested}, got {name} {found}; if something fails, "
                f"try `pip install '{name}>={oldest},<={newest}'`",
                stacklevel=3,
            )
