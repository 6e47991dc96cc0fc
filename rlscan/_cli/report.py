"""`rlscan report RUN_DIR...`: algorithms compared over environments and seeds."""

import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from .._core.files import write_whole
from ..runs._compare import Score, compare
from ..runs._report import FORMATS
from .evaluate import add_allow_option
from .plot import add_label_option
from .terminal import Parser, check_new_file, command, report

_SUFFIXES = {"md": ".md", "csv": ".csv", "latex": ".tex", "html": ".html"}


@command
def report_main(argv: Sequence[str] | None = None, *, prog: str = "rlscan report") -> int:
    """Run `rlscan report`, and return the exit status."""
    options = _parser(prog).parse_args(sys.argv[1:] if argv is None else argv)
    return report(lambda: _report(options))


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog=prog,
        usage=f"{prog} RUN_DIR [RUN_DIR ...] [OPTIONS]",
        description="Compare algorithms over environments and seeds: interquartile means with "
        "95 % bootstrap intervals, probability of improvement, performance profiles, and sample "
        "efficiency. Runs whose settings of the environment are equal are of one environment; "
        "those whose other settings are equal, or that have the same name, are of one algorithm.",
    )
    runs = parser.add_argument_group("runs")
    runs.add_argument(
        "run_dirs",
        nargs="+",
        metavar="RUN_DIR",
        help="Run directory, as written by `rlscan train`.",
    )
    add_label_option(runs)
    runs.add_argument(
        "--score",
        choices=get_args(Score),
        help="Score of a run: its return in the last tenth of training, or in its last evaluation "
        "(default: the latter, if all runs have one).",
    )
    runs.add_argument(
        "--range",
        action="append",
        default=[],
        metavar="ENV=LOW:HIGH",
        help="Scores that count as 0 and 1 if several environments are taken together (default: "
        "the lowest and the highest of these runs). May be repeated.",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--format",
        choices=_SUFFIXES,
        help="Tables in Markdown (md), all numbers (csv), tables for LaTeX's booktabs (latex), or "
        "a page with curves, audit, episodes and settings that needs no other file (html). By "
        "default as FILE ends, or md.",
    )
    output.add_argument("--output", metavar="FILE", help="File to write (default: print it).")
    output.add_argument("--overwrite", action="store_true", help="Overwrite FILE if it exists.")
    output.add_argument(
        "--no-episodes", action="store_true", help="Leave the episodes out of the page."
    )
    add_allow_option(output)
    return parser


def _report(options: Namespace) -> None:
    by_suffix = {suffix: name for name, suffix in _SUFFIXES.items()}
    kind = options.format or by_suffix.get(Path(options.output or "").suffix.lower(), "md")
    if options.output is not None:
        suffixes = [_SUFFIXES[kind]] if options.format else list(by_suffix)
        check_new_file(options.output, suffixes, overwrite=options.overwrite)
    elif kind == "html":
        raise ValueError("--format html needs a file: --output report.html")
    ranges = dict(_range(text) for text in options.range)
    labels = options.label
    found = compare(options.run_dirs, labels=labels, score=options.score, ranges=ranges)
    if kind == "html":
        from .._plots.page import page  # the other formats need no pictures

        text = page(
            found,
            options.run_dirs,
            labels=labels,
            has_episodes=not options.no_episodes,
            allow=options.allow,
        )
    else:
        text = FORMATS[kind](found)
    if options.output is None:
        print(text, end="")
    else:
        write_whole(Path(options.output), text.encode())
        print(options.output)


def _range(text: str) -> tuple[str, tuple[float, float]]:
    name, _, ends = text.rpartition("=")
    try:
        low, high = map(float, ends.split(":"))
    except ValueError:
        low = high = math.nan
    if not (name and low < high < math.inf and low > -math.inf):
        raise ValueError(f"--range must be ENV=LOW:HIGH, such as CartPole-v1=0:500, got {text}")
    return name, (low, high)
