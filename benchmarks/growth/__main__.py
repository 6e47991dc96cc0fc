"""How do speed and memory grow with N, T, the dropout rate, the width, and the number of seeds?

    python -m benchmarks.growth                          all points that are missing; 15 minutes
    python -m benchmarks.growth --only num_envs width    only these axes
    python -m benchmarks.growth --report                 write table.md and the plots

Each point is measured in a separate process and kept in results.json; the study may be stopped and
started again at any time. Exit status: 0; 1 if a point could not be measured; 2 for bad input.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._processes import run_python
from benchmarks.growth import report
from benchmarks.growth.points import AXES, SMOKE_AXES, Point, write

RESULTS = Path(__file__).parent / "results"
DONE, FAILED, BAD_INPUT = 0, 1, 2  # exit statuses

# Compiling takes most of the time of a smoke run.
SMOKE_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    args = _parser().parse_args(argv)
    if args.smoke:
        return smoke()
    axes = {name: AXES[name] for name in args.only}
    if args.report:
        if set(axes) != set(AXES):
            print("error: --report covers all axes; leave out --only", file=sys.stderr)
            return BAD_INPUT
        print(report.write(AXES, args.results))
        return DONE
    # Each point once, though axes share some.
    points = dict.fromkeys(point for axis in axes.values() for point in axis)
    if args.list:
        for point in points:
            print(f"{point.name}: {'measured' if point.read(args.results) else 'missing'}")
        return DONE
    return run([point for point in points if not point.read(args.results)], args)


def run(points: Sequence[Point], args: Any, environ: dict[str, str] | None = None) -> int:
    """Measure points and print a line for each; a point that fails is left out."""
    status = DONE
    for point in points:
        try:
            process = run_python(code(point, args.seconds), environ)
        except RuntimeError as error:
            print(f"{point.name}: {error}", file=sys.stderr)
            status = FAILED
            continue
        write(point, args.results, json.loads(process.output))
        print(f"{point.name}: measured in {process.seconds:.0f} s", flush=True)
    return status


def code(point: Point, seconds: float) -> str:
    """The program of the process that measures a point."""
    return (
        "from benchmarks.growth.measure import main\n"
        "from benchmarks.growth.points import Point\n"
        f"main({point!r}, {seconds!r})"
    )


def smoke() -> int:
    """Measure a tiny point, to see that the study runs."""
    flags = " ".join([os.environ.get("XLA_FLAGS", ""), SMOKE_FLAGS])
    with tempfile.TemporaryDirectory() as folder:
        args = argparse.Namespace(results=Path(folder), seconds=0.05)
        points = [point for axis in SMOKE_AXES.values() for point in axis]
        status = run(points, args, {"XLA_FLAGS": flags})
        print(report.write(SMOKE_AXES, args.results))
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=AXES, default=list(AXES), metavar="AXIS")
    parser.add_argument("--seconds", type=float, default=2.0, help="to time each kind of program")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of results.json")
    parser.add_argument("--list", action="store_true", help="print the points and measure none")
    parser.add_argument("--report", action="store_true", help="write table.md and the plots")
    parser.add_argument("--smoke", action="store_true", help="a tiny size, to see that it runs")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
