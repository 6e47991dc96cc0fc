"""`rlscan export RUN_DIR`: a run's policy as a file that needs no Python class."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from .._core.files import write_whole
from ..policies._export import exported_content, require_flatbuffers
from ..policies._onnx import onnx_content, require_onnx
from .evaluate import choose_run, load_chosen, policy_parser
from .terminal import Parser, check_new_file, command, report

_FORMATS = {
    "onnx": (require_onnx, onnx_content),
    "program": (require_flatbuffers, exported_content),
}
_SUFFIXES = {"onnx": [".onnx"], "program": [".bin"]}


@command
def export_main(argv: Sequence[str] | None = None, *, prog: str = "rlscan export") -> int:
    """Run `rlscan export`, and return the exit status."""
    options = _parser(prog).parse_args(sys.argv[1:] if argv is None else argv)
    return report(lambda: _export(options))


def _parser(prog: str) -> Parser:
    parser = policy_parser(
        prog,
        "Write a run's policy in inference mode to a file that runs without its Python class, for "
        "any number of observations at once. Its action is the mode of the distribution.",
        usage="--output FILE [OPTIONS]",
        default_run="the one with the median return at the end of training",
        verb="export",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--output", metavar="FILE", required=True, help="File to write.")
    output.add_argument(
        "--format",
        choices=_FORMATS,
        default="onnx",
        help="For any runtime of ONNX (onnx, the default, into a file .onnx), or for "
        "rlscan.policies.load_exported (program, into a file .bin).",
    )
    output.add_argument("--overwrite", action="store_true", help="Overwrite FILE if it exists.")
    return parser


def _export(options: Namespace) -> None:
    check_new_file(options.output, _SUFFIXES[options.format], overwrite=options.overwrite)
    require, content_of = _FORMATS[options.format]
    require()
    run, which = choose_run(options)
    trained = load_chosen(options, run)
    write_whole(Path(options.output), content_of(trained.policy, trained.env))
    name = trained.config.env.title
    print(f"{options.output}: {which}a policy for {name}")
