"""`rlscan envs [SUITE]`: the environments that `rlscan.make` and `env.name` take."""

import sys
from collections.abc import Sequence

from ..envs._make import environments
from ..envs._suites._table import is_installed, suites
from .terminal import Parser, command, report


@command
def envs_main(argv: Sequence[str] | None = None, *, prog: str = "rlscan envs") -> int:
    """Run `rlscan envs`, and return the exit status."""
    parser = Parser(
        prog=prog,
        description="List the suites of environments; with SUITE, the environments of one, as "
        "`rlscan.make` and `--env.name` take them.",
    )
    parser.add_argument("suite", nargs="?", metavar="SUITE", help="The suite to list.")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    return report(lambda: _print(options.suite))


def _print(suite: str | None) -> None:
    if suite is None:
        width = max(map(len, suites()))
        for name in suites():
            state = "installed" if is_installed(name) else f"pip install 'rlscan[{name}]'"
            print(f"{name:<{width}}  {state}")
        return
    for name in environments(suite):
        print(name if suite == "gymnax" else f"{suite}:{name}")
