"""What the commands that play a run's policy share: their options, and the policy."""

from argparse import Namespace
from typing import get_args

from ._compile_cache import use_compile_cache
from ._evaluate import Action
from ._terminal import Parser
from ._trained import Trained, load_trained


def player_parser(prog: str, description: str) -> Parser:
    """With the options that say which policy plays, and on which seed."""
    parser = Parser(
        prog=prog,
        description=f"{description} Its seeds are other than any that the policy was trained on.",
    )
    parser.add_argument("run_dir", help="of `rlscan train`")
    parser.add_argument("--run", type=int, help="which, of several that were trained together")
    parser.add_argument(
        "--action",
        choices=get_args(Action),
        default="mode",
        help="of the distribution (default mode)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is played (default 0)")
    return parser


def load_player(options: Namespace) -> Trained:
    """The run that the options name, with its policy.

    **Raises:** `ValueError` for a seed that no key can be made of, and as `load_trained`.
    """
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"--seed must be from 0 to {2**32 - 1}, got {options.seed}")
    trained = load_trained(options.run_dir, run=options.run)
    if trained.config.compile_cache:
        use_compile_cache()
    return trained
