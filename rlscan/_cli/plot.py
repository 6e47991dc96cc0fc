"""`rlscan plot RUN_DIR...`: learning curves."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from .._core.files import write_whole
from .._plots.plot import plot
from .terminal import Parser, check_new_file, command, report


@command
def plot_main(argv: Sequence[str] | None = None, *, prog: str = "plot.py") -> int:
    """The command `rlscan plot`, also `scripts/plot.py`. Returns the exit status."""
    options = _parser(prog).parse_args(sys.argv[1:] if argv is None else argv)
    return report(lambda: _plot(options))


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog=prog,
        description="Plot metrics of runs over environment steps. Runs that differ only in their "
        "seed form one curve: their interquartile mean, with a band for its 95 % bootstrap "
        "interval. For the metrics of the audit, the curve is their maximum.",
    )
    parser.add_argument(
        "run_dirs",
        nargs="+",
        metavar="RUN_DIR",
        help="Run directory, as written by `rlscan train`.",
    )
    parser.add_argument(
        "--output", metavar="FILE", required=True, help="File for the plot, .png or .svg."
    )
    parser.add_argument(
        "--metrics",
        default="episode_return,audit_log_ratio",
        help="Columns of metrics.csv, separated by commas. Write evaluation/episode_return for a "
        "column of evaluations.csv (default: %(default)s).",
    )
    parser.add_argument("--overwrite", action="store_true", help="Overwrite FILE if it exists.")
    return parser


def _plot(options: Namespace) -> None:
    check_new_file(options.output, [".png", ".svg"], overwrite=options.overwrite)
    metrics = [name.strip() for name in options.metrics.split(",")]
    output = Path(options.output)
    write_whole(output, plot(options.run_dirs, metrics, suffix=output.suffix.lower()))
    print(options.output)
