"""`rlscan render RUN_DIR`: an episode to look at."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._core.files import write_whole
from .._plots.episode import Episode, record
from .._plots.render import MOST_FRAMES, render
from ..runs._evaluations import evaluation_key
from ..runs._load import Trained
from .evaluate import load_player, player_parser
from .terminal import Parser, check_new_file, report


def render_main(argv: Sequence[str] | None = None, *, prog: str = "render.py") -> int:
    """`rlscan render` and `scripts/render.py`. Returns the exit status."""
    options = _parser(prog).parse_args(sys.argv[1:] if argv is None else argv)
    return report(lambda: _render(options))


def _parser(prog: str) -> Parser:
    parser = player_parser(prog, "Draws an episode of a run's policy as a GIF.")
    parser.add_argument("--output", required=True, help="the picture, .gif")
    parser.add_argument(
        "--network",
        choices=["inference", "train"],
        default="inference",
        help="without its noise (inference, the default), or with it",
    )
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="draws beside it how far the networks of MC-dropout disagree",
    )
    parser.add_argument("--masks", type=int, default=16, help="of MC-dropout (default 16)")
    parser.add_argument(
        "--max-frames", type=int, default=MOST_FRAMES, help="of the picture (default %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="of the picture, if it exists")
    return parser


def _render(options: Namespace) -> None:
    check_new_file(options.output, [".gif"], overwrite=options.overwrite)
    for name in ("masks", "max_frames"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be a positive integer")
    trained = load_player(options)
    episode = _play(trained, options)
    if episode.opinions is not None and np.ptp(episode.opinions.policy, axis=1).max() == 0:
        raise ValueError(
            f"the policy of {options.run_dir} has no dropout, so that no networks can disagree; "
            "leave out --uncertainty"
        )
    name = trained.config.env.name
    content, num_steps = render(episode, name, max_frames=options.max_frames)
    write_whole(Path(options.output), content)
    length, total = int(episode.length), float(episode.reward[: int(episode.length)].sum())
    shown = "" if num_steps == length else f", of which the first {num_steps:,} are drawn"
    print(f"{options.output}: {length:,} steps{shown}, return {total:.4g}")


def _play(trained: Trained, options: Namespace) -> Episode:
    limit = getattr(trained.env, "time_limit", None) or 1000
    played: Any = eqx.filter_jit(record)(
        eqx.nn.inference_mode(trained.policy, value=options.network == "inference"),
        trained.env,
        key=evaluation_key(options.seed, generator=trained.config.generator),
        max_steps=limit,
        action=options.action,
        num_masks=options.masks if options.uncertainty else None,
    )
    return jax.device_get(played)
