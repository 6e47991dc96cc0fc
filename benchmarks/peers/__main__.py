"""rlscan beside its peers: the same work, the same network, as many gradient steps.

    python -m benchmarks.peers build [NAME …]
    python -m benchmarks.peers run [--only WORKLOAD …] [--peers NAME …] [--purejaxrl PATH]
                                   [--repeats 5] [--json FILE] [--keep NAME] [--smoke]
    python -m benchmarks.peers list

`build` makes an environment for each peer under .venvs/, because their pins differ; it keeps those
that exist. `run`, the default command, times whole training runs: all processes have compiled and
stay alive, and run one at a time, A B C A B C …. Workloads that begin with `learn` are not timed:
each library trains 16 seeds once, and their returns are compared. If a peer cannot do a workload,
its row gives the reason. purejaxrl is not a package: give the path of a checkout. The return is the
mean over 128 whole episodes after training, with sampled actions, measured outside of the clock; in
`cold-start` it is the one that the library itself reports. `--keep` keeps the figures in results/.
Exit status: 0, whether or not the bars are met; 1 if a workload has nothing to compare (with
`--smoke`: if rlscan did not run), or a peer could not be built; 2 for bad input.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from benchmarks import _results
from benchmarks._timing import record
from benchmarks.peers import cold, learning, report, steady
from benchmarks.peers.contest import contest
from benchmarks.peers.environments import BuildError, build, is_built
from benchmarks.peers.libraries import PEERS, Library
from benchmarks.peers.workloads import LEARNING, WORKLOADS
from rlscan._core.require import did_you_mean

FAILED, BAD_INPUT = 1, 2
LEAST_REPEATS, SMOKE_REPEATS = 5, 1
ALL_WORKLOADS = (*WORKLOADS, cold.NAME, *LEARNING)
RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0].startswith("-"):
        arguments.insert(0, "run")
    command, *rest = arguments
    parser = _Parser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _known(parser, "command", [command], COMMANDS)
    return COMMANDS[command](parser, rest)


def build_command(parser: "_Parser", argv: Sequence[str]) -> int:
    parser.add_argument("names", metavar="NAME", nargs="*", help="only these peers")
    names = parser.parse_args(argv).names or list(PEERS)
    _known(parser, "peer", names, PEERS)
    failed = False
    for name in names:
        if is_built(PEERS[name]):
            print(f"{name}: exists")
            continue
        print(f"{name}: building", flush=True)
        try:
            build(PEERS[name])
        except BuildError as error:
            failed = True
            print(f"error: {name} was not built: {error}", file=sys.stderr)
    return FAILED if failed else 0


def run_command(parser: "_Parser", argv: Sequence[str]) -> int:
    args = _run_arguments(parser, argv)
    peers = [PEERS[name] for name in args.peers]
    repeats = SMOKE_REPEATS if args.smoke else args.repeats
    figures = {
        name: _answer(name, peers, args.purejaxrl, repeats, args.smoke) for name in args.only
    }
    checkout = args.purejaxrl and args.purejaxrl.name  # without the path on this machine
    settings = {"repeats": repeats, "smoke": args.smoke, "purejaxrl": checkout}
    content = record("peers", settings, figures)
    if args.json:
        with args.json.open("x") as file:  # never overwrites a file written in the meantime
            file.write(json.dumps(content, indent=2) + "\n")
        print(f"written to {args.json}")
    if args.keep:
        _results.write(RESULTS, args.keep, content)
        print(f"kept as {args.keep} in {RESULTS / _results.FILE}")
    return 0 if all(_is_answered(figure, args.smoke) for figure in figures.values()) else FAILED


def list_command(parser: "_Parser", argv: Sequence[str]) -> int:
    parser.parse_args(argv)
    for name, workload in WORKLOADS.items():
        print(f"{name}: {workload.env}, {workload.steps:,} steps, bar {workload.bar}")
    print(f"{cold.NAME}: {cold.STEPS:,} steps, bars {cold.COLD_BAR} and {cold.WARM_BAR}")
    for name, workload in LEARNING.items():
        print(
            f"{name}: {workload.env}, {workload.num_seeds} seeds of {workload.seed_steps:,} steps"
        )
    for name, peer in PEERS.items():
        state = "built" if is_built(peer) else "not built"
        print(f"{name}: {state}; {' '.join(peer.requirements)}")
    return 0


COMMANDS = {"build": build_command, "run": run_command, "list": list_command}


def _run_arguments(parser: "_Parser", argv: Sequence[str]) -> argparse.Namespace:
    add = parser.add_argument
    add("--only", metavar="WORKLOAD", nargs="+", default=ALL_WORKLOADS, help="only these")
    add("--peers", metavar="NAME", nargs="+", default=list(PEERS), help="only these")
    add("--purejaxrl", metavar="PATH", type=Path, help="a checkout of purejaxrl")
    add("--repeats", metavar="R", type=int, default=LEAST_REPEATS, help="5 or more rounds")
    add("--json", metavar="FILE", type=Path, help="write the figures to this new file")
    add("--keep", metavar="NAME", help="keep the figures under this name in results/")
    add("--smoke", action="store_true", help="a tiny size, to see that it runs")
    args = parser.parse_args(argv)
    _known(parser, "workload", args.only, ALL_WORKLOADS)
    _known(parser, "peer", args.peers, PEERS)
    if args.repeats < LEAST_REPEATS:
        parser.error(f"--repeats must be {LEAST_REPEATS} or more, got {args.repeats}")
    if args.purejaxrl and not (args.purejaxrl / "purejaxrl" / "ppo.py").is_file():
        parser.error(f"--purejaxrl: there is no purejaxrl/ppo.py in {args.purejaxrl}")
    if args.json and args.json.exists():
        parser.error(f"--json: {args.json} is there already; give another name")
    if args.json and not args.json.parent.is_dir():
        parser.error(f"--json: there is no folder {args.json.parent}")
    if args.keep and args.keep in _results.read(RESULTS):
        file = RESULTS / _results.FILE
        parser.error(f"--keep: {file} has {args.keep} already; give another name")
    return args


def _answer(
    name: str, peers: list[Library], checkout: Path | None, repeats: int, is_smoke: bool
) -> dict[str, Any]:
    """Run a workload, print its figures, and return them for the JSON."""
    if name in LEARNING:
        return _learned(name, peers, checkout, is_smoke)
    if name == cold.NAME:
        steps = cold.SMOKE_STEPS if is_smoke else cold.STEPS
        about, question = {"name": name, "steps": steps}, report.cold_question(steps)
        contestants = cold.contestants(peers, checkout, steps=steps)
    else:
        workload = WORKLOADS[name].smoke() if is_smoke else WORKLOADS[name]
        about, question = workload.as_message(), report.steady_question(workload)
        contestants = steady.contestants(workload, peers, checkout)
    entries = contest(contestants, repeats=repeats)
    report.show(question, entries)
    ours = entries[steady.OURS]
    return {
        "workload": about,
        "entries": [
            {**asdict(entry), "rlscan_times_faster": report.ratio(entry, ours)}
            for entry in entries.values()
        ],
        "verdicts": [verdict._asdict() for verdict in report.verdicts(question, entries)],
    }


def _learned(
    name: str, peers: list[Library], checkout: Path | None, is_smoke: bool
) -> dict[str, Any]:
    """The same for a workload whose returns are compared: every seed trains once."""
    workload = LEARNING[name].smoke() if is_smoke else LEARNING[name]
    entries = contest(steady.contestants(workload, peers, checkout), repeats=1)
    learning.show(workload, entries)
    return {
        "workload": workload.as_message(),
        "entries": [asdict(entry) for entry in entries.values()],
        "verdicts": [],
        "scores": [score._asdict() for score in learning.scores(entries)],
    }


def _is_answered(figure: dict[str, Any], is_smoke: bool) -> bool:
    if not is_smoke:
        return bool(figure["verdicts"]) or len(figure.get("scores", ())) > 1
    return all(e["runs"] for e in figure["entries"] if e["name"].startswith(steady.OURS))


def _known(parser: "_Parser", what: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            near = did_you_mean(name, known)
            parser.error(f"unknown {what} {name!r}{near}; there are {', '.join(known)}")


class _Parser(argparse.ArgumentParser):
    """A parser that prints errors in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {message}\n")


if __name__ == "__main__":
    sys.exit(main())
