"""The command `rlscan`."""

import argparse
from collections.abc import Sequence

from .._version import __version__
from .configs import configs_main
from .envs import envs_main
from .evaluate import evaluate_main
from .export import export_main
from .plot import plot_main
from .render import render_main
from .report import report_main
from .terminal import Parser, command
from .train import train_main
from .verify import verify_main

COMMANDS = {
    "train": (train_main, "train a policy from a config"),
    "configs": (configs_main, "list the configs that come with rlscan"),
    "envs": (envs_main, "list the suites of environments, and what is in them"),
    "evaluate": (evaluate_main, "play episodes with the policy of a run, and print its return"),
    "plot": (plot_main, "draw the learning curves of runs"),
    "report": (report_main, "compare algorithms over environments and seeds"),
    "render": (render_main, "draw an episode of a run's policy"),
    "export": (export_main, "write the policy of a run for ONNX, or as a program of JAX"),
    "verify": (verify_main, "compute updates of a run again, and compare every number"),
}


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `rlscan`, and return its exit status."""
    commands = "\n".join(f"  {name:<10}{what}" for name, (_, what) in COMMANDS.items())
    parser = Parser(
        prog="rlscan",
        usage="rlscan COMMAND [ARGUMENTS]",
        description="Jitted RL rollouts of stochastic Equinox policies, replayed exactly.",
        epilog=f"commands:\n{commands}\n\nrlscan COMMAND --help describes a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rlscan {__version__}")
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS, metavar="COMMAND")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    run, _ = COMMANDS[asked.command]
    return run(asked.arguments, prog=f"rlscan {asked.command}")
