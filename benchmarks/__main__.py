"""Check what rlscan claims on this machine, in about twelve minutes.

    python -m benchmarks                       all benchmarks, with a table and the claims of each
    python -m benchmarks --list                the benchmarks and their claims
    python -m benchmarks --only rollout        some of them
    python -m benchmarks --only rollout --env Pendulum-v1 --policy my_policy:make
    python -m benchmarks compare OLD.json NEW.json

Exit status: 0; 1 if a claim was missed, or two files cannot be compared; 2 for bad input.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax

import rlscan
from benchmarks import _table
from benchmarks._benchmark import Benchmark, Settings
from benchmarks._compare import compare
from benchmarks._figures import Comparison, Line, Ratio, ratios, to_json
from benchmarks._registry import BENCHMARKS, studies
from benchmarks._subject import subject
from benchmarks._timing import circumstances, record, write_json
from rlscan._core.cpu import num_cores
from rlscan._core.require import did_you_mean

DONE, MISSED, BAD_INPUT = 0, 1, 2  # exit statuses


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv[:1] == ["compare"]:
            files = _compare_parser().parse_args(argv[1:])
            return DONE if compare(files.old, files.new) else MISSED
        args = _parser().parse_args(argv)
        if args.list:
            show_list()
            return DONE
        settings = read_settings(args)
        chosen = choose(args.only, settings)
        check_json(args.json)
        if settings.env or settings.policy:
            subject(settings)  # raises now, not after minutes
    except (ValueError, TypeError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return BAD_INPUT
    return run(chosen, settings, args.json)


def run(chosen: Sequence[Benchmark], settings: Settings, json: str | None) -> int:
    """Run benchmarks, and show each as it ends."""
    # As the scripts do for one device; programs for several devices set their own options.
    rlscan.configure_cpu()
    with contextlib.suppress(RuntimeError):  # if JAX runs already, it is too late
        jax.config.update("jax_num_cpu_devices", num_cores())
    jax.config.update("jax_enable_compilation_cache", False)  # otherwise nothing is compiled
    introduce(chosen, settings)
    figures: dict[str, Any] = {}
    all_lines: list[Line] = []
    all_ratios: list[Ratio] = []
    try:
        for benchmark in chosen:
            setting, lines = benchmark.run(settings)
            if not lines:
                print(f"\n{benchmark.name}: {setting}", flush=True)
                continue
            comparisons = benchmark.comparisons
            if settings.env or settings.policy:  # claims are only about our own
                comparisons = unclaimed(comparisons, lines)
            compared = ratios(lines, comparisons)
            _table.show(benchmark.name, setting, lines, compared)
            figures[benchmark.name] = to_json(setting, lines, compared)
            all_lines, all_ratios = all_lines + lines, all_ratios + compared
    finally:  # keep minutes of measuring, even if a later benchmark fails
        if figures:
            _table.explain_columns(all_lines)
            write_json(json, record("suite", settings._asdict(), figures))
    return conclude(all_ratios)


def unclaimed(comparisons: Sequence[Comparison], lines: Sequence[Line]) -> list[Comparison]:
    """The comparisons of contestants that ran, without claims."""
    ran = {line.name for line in lines}
    return [c._replace(at_least={}) for c in comparisons if {c.of, c.over} <= ran]


def introduce(chosen: Sequence[Benchmark], settings: Settings) -> None:
    about = circumstances()
    versions = ", ".join(f"{name} {about['versions'][name]}" for name in ("rlscan", "jax"))
    commit = about["commit"] + " with changes" * about["changed"]
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{versions}, Python {about['python']}, commit {commit}")
    print(f"{about['cpu']}, {about['cores']} cores{load}, on {about['device']}")
    names = ", ".join(benchmark.name for benchmark in chosen)
    minutes = sum(benchmark.minutes for benchmark in chosen)
    size = "a tiny size, to see that it runs"
    print(f"{names}: {size if settings.smoke else f'about {minutes:g} min on two cores'}")
    print(f"{settings.repeats} runs of each contestant, in turn", flush=True)


def conclude(ratios: Sequence[Ratio]) -> int:
    claims = [ratio for ratio in ratios if ratio.is_met is not None]
    missed = [ratio for ratio in claims if not ratio.is_met]
    if claims:
        print(f"\n{len(claims) - len(missed)} of {len(claims)} claims met")
    return MISSED if missed else DONE


def show_list() -> None:
    for benchmark in BENCHMARKS.values():
        print(f"{benchmark.name}: {benchmark.measures}")
        own = "; takes --env and --policy" if benchmark.takes_own else ""
        print(f"    about {benchmark.minutes:g} min on two cores{own}")
        for comparison in benchmark.comparisons:
            if comparison.at_least:
                bars = ", ".join(f"{bar:g} ({size})" for size, bar in comparison.at_least.items())
                print(f"    claim: {comparison.of} / {comparison.over} at least {bars}")
    print("\nwith command lines of their own, `python -m benchmarks.NAME --help`:")
    for name, about in studies().items():
        print(f"{name}: {about}")


def read_settings(args: argparse.Namespace) -> Settings:
    repeats = (2 if args.smoke else Settings().repeats) if args.repeats is None else args.repeats
    if repeats < 1:
        raise ValueError(f"--repeats must be 1 or more, got {repeats}")
    return Settings(args.smoke, repeats, args.env, args.policy)


def choose(names: Sequence[str] | None, settings: Settings) -> list[Benchmark]:
    """The benchmarks with these names, in the order of the suite; all that can run if `None`."""
    is_own = bool(settings.env or settings.policy)
    for name in names or ():
        if name in studies():
            raise ValueError(f"{name} is a study of its own; `python -m benchmarks.{name} --help`")
        if name not in BENCHMARKS:
            near = did_you_mean(name, BENCHMARKS)
            raise ValueError(f"unknown benchmark {name!r}{near}; `--list` shows all")
        if is_own and not BENCHMARKS[name].takes_own:
            raise ValueError(f"{name} takes no --env or --policy; leave it out of --only")
    return [
        benchmark
        for name, benchmark in BENCHMARKS.items()
        if (names is None or name in names) and (benchmark.takes_own or not is_own)
    ]


def check_json(path: str | None) -> None:
    if path is None:
        return
    if os.path.lexists(path):
        raise ValueError(f"{path} exists already; name another file, or remove it")
    folder = Path(path).parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{path} cannot be written: {folder} is not a writable folder")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--list", action="store_true", help="print the benchmarks and run none")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these benchmarks")
    parser.add_argument("--smoke", action="store_true", help="a tiny size, to see that it runs")
    parser.add_argument(
        "--repeats",
        type=int,
        help=f"interleaved runs of each contestant, {Settings().repeats} by default; "
        "a fifth as many of fresh processes",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to this new file")
    parser.add_argument(
        "--env", help="a name of rlscan.envs.ENVIRONMENTS, or module:factory; factory()"
    )
    parser.add_argument(
        "--policy", metavar="MODULE:FACTORY", help="your own policy; factory(env, key=key)"
    )
    return parser


def _compare_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m benchmarks compare",
        description="Figures of NEW over those of OLD, line by line.",
    )
    parser.add_argument("old", metavar="OLD.json")
    parser.add_argument("new", metavar="NEW.json")
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser that prints errors in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {message}\n")


if __name__ == "__main__":
    raise SystemExit(main())
