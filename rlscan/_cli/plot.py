"""`rlscan plot RUN_DIR...`: learning curves."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._core.files import write_whole
from .._plots.plot import AUDIT, FORMATS, plot
from ..runs._groups import read_labels
from .terminal import Parser, check_counts, check_new_file, command, report


@command
def plot_main(argv: Sequence[str] | None = None, *, prog: str = "plot.py") -> int:
    """The command `rlscan plot`, also `scripts/plot.py`. Returns the exit status."""
    options = _parser(prog).parse_args(sys.argv[1:] if argv is None else argv)
    return report(lambda: _plot(options))


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog=prog,
        usage=f"{prog} RUN_DIR [RUN_DIR ...] --output FILE [OPTIONS]",
        description="Plot metrics of runs over environment steps. Runs that differ only in their "
        "seed form one curve: their interquartile mean, with a band for its 95 % bootstrap "
        "interval. For the metrics of the audit, the curve is their maximum.",
    )
    runs = parser.add_argument_group("runs")
    runs.add_argument(
        "run_dirs",
        nargs="+",
        metavar="RUN_DIR",
        help="Run directory, as written by `rlscan train`.",
    )
    add_label_option(runs)
    curves = parser.add_argument_group("curves")
    curves.add_argument(
        "--metrics",
        default="episode_return",
        metavar="NAMES",
        help="Columns of metrics.csv, separated by commas. Write evaluation/episode_return for a "
        "column of evaluations.csv (default: %(default)s).",
    )
    curves.add_argument(
        "--smoothing",
        type=int,
        metavar="STEPS",
        help="Average each run over so many environment steps (default: do not).",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output", metavar="FILE", required=True, help="File for the plot: .png, .svg or .pdf."
    )
    output.add_argument(
        "--audit", metavar="FILE", help="File for a second plot: all metrics of the audit."
    )
    output.add_argument("--overwrite", action="store_true", help="Overwrite files that exist.")
    return parser


def add_label_option(group: Any) -> None:
    group.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="DIR=NAME",
        help="Name a run; those of one name are one group, whatever their settings. May be "
        "repeated.",
    )


def _plot(options: Namespace) -> None:
    metrics = [name.strip() for name in options.metrics.split(",")]
    pages = {"--output": (options.output, metrics), "--audit": (options.audit, AUDIT)}
    pages = {option: page for option, page in pages.items() if page[0] is not None}
    for option, (path, _) in pages.items():
        check_new_file(path, FORMATS, overwrite=options.overwrite, option=option)
    if len({Path(path).resolve() for path, _ in pages.values()}) < len(pages):
        raise ValueError(f"--audit must be another file than --output, got {options.audit}")
    check_counts(options, "smoothing")
    names = read_labels(options.label, options.run_dirs)
    contents = {
        path: plot(
            options.run_dirs,
            shown,
            suffix=Path(path).suffix.lower(),
            smoothing=options.smoothing or 0,
            names=names,
        )
        for path, shown in pages.values()
    }
    for path, content in contents.items():  # only when both are drawn
        write_whole(Path(path), content)
        print(path)
