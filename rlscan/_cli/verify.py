"""`rlscan verify RUN_DIR`: compute updates of a run again, and compare every number."""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from .._core.files import write_whole
from ..runs._load import load_config
from ..runs._machine import on_this_machine
from ..runs._progress import format_seconds
from ..runs._verify import Span, plan_spans, seconds_of, verify
from .evaluate import add_allow_option
from .terminal import FAILED, Parser, check_new_file, command, report


@command
def verify_main(argv: Sequence[str] | None = None, *, prog: str = "rlscan verify") -> int:
    """Run `rlscan verify`, and return the exit status."""
    options = _parser(prog).parse_args(sys.argv[1:] if argv is None else argv)
    held: list[bool] = []
    status = report(lambda: held.append(_verify(options)))
    return status if status or all(held) else FAILED


def _parser(prog: str) -> Parser:
    parser = Parser(
        prog=prog,
        usage=f"{prog} RUN_DIR [OPTIONS]",
        description="Compute updates of a run again, from the nearest earlier checkpoint or from "
        "the seed, and compare every number that the run kept of them: metrics, and the state in "
        "its checkpoints. The run is only read. The status is 0 if all are the same bit for bit, "
        "or within 1e-5 with other versions or on another machine, and 1 if not.",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", help="Run directory of `rlscan train`.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--updates",
        metavar="N",
        nargs="+",
        type=int,
        help="Updates to check, from 1 (default: the first, the last, and three random ones).",
    )
    which.add_argument("--all", action="store_true", help="Compute the whole run again.")
    parser.add_argument("--json", metavar="FILE", help="Write the certificate to FILE too.")
    parser.add_argument("--overwrite", action="store_true", help="Overwrite FILE if it exists.")
    add_allow_option(parser)
    return parser


def _verify(options: Namespace) -> bool:
    if options.json is not None:
        check_new_file(options.json, [".json"], overwrite=options.overwrite, option="--json")
    directory = options.run_dir
    config = on_this_machine(load_config(directory, allow=options.allow))
    spans = plan_spans(directory, options.updates)
    if options.all:
        spans = [Span(0, max(span.last for span in spans), None)]
    num_updates = sum(span.last - span.start for span in spans)
    expected = format_seconds(seconds_of(directory, spans))
    print(f"{num_updates:,} updates to compute, about {expected} and the time to compile")
    certificate = verify(config, directory, spans, say=print)
    print(certificate)
    if options.json is not None:
        text = json.dumps(certificate.as_dict(), indent=2) + "\n"
        write_whole(Path(options.json), text.encode())
    return certificate.holds
