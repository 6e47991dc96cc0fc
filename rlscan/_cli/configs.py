"""`rlscan configs`: the configs that come with rlscan."""

import sys
from collections.abc import Sequence

from .._core.require import did_you_mean
from ..runs._named_configs import named_configs, summary
from .terminal import Parser, command, report


@command
def configs_main(argv: Sequence[str] | None = None, *, prog: str = "rlscan configs") -> int:
    """Run `rlscan configs`, and return the exit status."""
    parser = Parser(
        prog=prog,
        description="List the configs that come with rlscan: `rlscan train --config NAME` trains "
        "one, and `rlscan configs NAME` prints it, as a file to start from.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="The config to print.")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    return report(lambda: _print(options.name))


def _print(name: str | None) -> None:
    configs = named_configs()
    if name is None:
        width = max(map(len, configs), default=0)
        for each, file in configs.items():
            print(f"{each:<{width}}  {summary(file)}")
    elif name in configs:
        print(configs[name].read_text(encoding="utf-8"), end="")
    else:
        raise ValueError(
            f"no config {name}{did_you_mean(name, configs)}; `rlscan configs` lists all"
        )
