"""Does `mix32` give random numbers? Two batteries of statistical tests, on five streams.

    python -m benchmarks.randomness                      all runs that are not done; hours
    python -m benchmarks.randomness --list               the runs, and how far they are
    python -m benchmarks.randomness --only 'mix32/*/nist' weyl/counter/dieharder
    python -m benchmarks.randomness --report             write results/table.md, and print it
    python -m benchmarks.randomness --draw mix32/split | another_test

It may be stopped and started again at any time. Exit status: 0; 2 for bad input, and if a run has
results of another generator or other settings. The other runs go on in that case.
"""

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.randomness import dieharder, nist, report, results, smoke
from benchmarks.randomness.runs import RUNS, Run
from benchmarks.randomness.streams import GENERATORS, STREAMS, draw
from rlscan._core.require import did_you_mean

RESULTS = Path(__file__).parent / "results"
DONE, BAD_INPUT = 0, 2  # exit statuses


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    args = _parser().parse_args(argv)
    try:
        if args.smoke:
            smoke.run()
        elif args.draw:
            pour(args.draw, args.seed)
        elif args.report:
            print(report.write(args.results))
        elif args.list:
            for run in choose(args.only):
                print(f"{run.name}: {progress(run, args.results)}")
        else:
            chosen = choose(args.only)
            check(chosen, args.sequences)
            return carry_out_all(chosen, args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    return DONE


def choose(patterns: Sequence[str] | None) -> list[Run]:
    """The runs whose names match one of the patterns, in the order of the plan; all if `None`."""
    for pattern in patterns or ():
        if not any(fnmatch(name, pattern) for name in RUNS):
            near = did_you_mean(pattern, RUNS)
            raise ValueError(f"unknown run {pattern!r}{near}; `--list` shows all")
    return [
        run
        for name, run in RUNS.items()
        if patterns is None or any(fnmatch(name, pattern) for pattern in patterns)
    ]


def check(chosen: Sequence[Run], num_sequences: int) -> None:
    """Raise `ValueError` at once for what would fail after hours."""
    if num_sequences < 1:
        raise ValueError(f"--sequences must be 1 or more, got {num_sequences}")
    if any(run.battery == "dieharder" for run in chosen) and not dieharder.is_installed():
        raise ValueError(f"{dieharder.MISSING}, or run `--only '*/nist'`")


def carry_out_all(chosen: Sequence[Run], args: argparse.Namespace) -> int:
    """Carry out runs. Results that were made otherwise are reported, and left as they are."""
    status = DONE
    for run in chosen:
        try:
            carry_out(run, args)
        except results.MadeOtherwiseError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            status = BAD_INPUT
    return status


def carry_out(run: Run, args: argparse.Namespace) -> None:
    if run.battery == "nist":
        nist.run(run, args.results, args.sequences)
    else:
        dieharder.run(run, args.results, dieharder.tests_of(run))
    print(f"{run.name}: {progress(run, args.results)}", flush=True)


def progress(run: Run, folder: Path) -> str:
    """The number of sequences or tests that a run has finished."""
    found = results.read(run, folder)
    if found is None:
        return "not run"
    if run.battery == "nist":
        return f"{found['num_sequences']} sequences"
    return f"{len(found['tests'])} of {len(dieharder.tests_of(run))} tests"


def pour(name: str, seed: int) -> None:
    """Write a stream to standard output until the reader closes it."""
    names = [f"{generator}/{stream}" for generator in GENERATORS for stream in STREAMS]
    if name not in names:
        raise ValueError(
            f"unknown stream {name!r}{did_you_mean(name, names)}; they are {', '.join(names)}"
        )
    generator, _, stream = name.partition("/")
    try:
        for words in draw(generator, stream, seed):
            sys.stdout.buffer.write(words.data)
    except BrokenPipeError:
        sys.stderr.close()  # otherwise Python reports the broken pipe again at exit


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.randomness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", metavar="RUN", help="only these; * stands for any text"
    )
    parser.add_argument(
        "--sequences", type=int, default=1000, help="of each NIST run; by default 1000"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of results.json")
    parser.add_argument("--list", action="store_true", help="print the runs and run none")
    parser.add_argument("--report", action="store_true", help="write table.md and print it")
    parser.add_argument("--smoke", action="store_true", help="a tiny size, to see that it runs")
    parser.add_argument("--draw", metavar="STREAM", help="write raw words to standard output")
    parser.add_argument("--seed", type=int, default=0, help="the seed for --draw")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
