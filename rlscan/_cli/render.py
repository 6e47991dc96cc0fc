"""`rlscan render RUN_DIR`: an episode as an animation."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .._core.files import write_whole
from .._plots.animation import FORMATS, require_format
from .._plots.play import play
from .._plots.render import MOST_FRAMES, render
from ..runs._footprint import evaluation_bytes, require_memory
from .evaluate import choose_run, load_player, player_parser
from .terminal import Parser, check_counts, check_new_file, command, report


@command
def render_main(argv: Sequence[str] | None = None, *, prog: str = "render.py") -> int:
    """The command `rlscan render`, also `scripts/render.py`. Returns the exit status."""
    options = _parser(prog).parse_args(sys.argv[1:] if argv is None else argv)
    return report(lambda: _render(options))


def _parser(prog: str) -> Parser:
    parser, episodes = player_parser(
        prog,
        "Draw an episode of a run's policy as an animation.",
        usage="--output FILE [OPTIONS]",
        default_run="the one with the median return at the end of training",
    )
    episodes.add_argument(
        "--network",
        choices=["inference", "train"],
        default="inference",
        help="Network that plays: without dropout (inference, the default) or with dropout "
        "as in training (train).",
    )
    episodes.add_argument(
        "--uncertainty",
        action="store_true",
        help="Also draw how far the networks of MC-dropout disagree.",
    )
    episodes.add_argument(
        "--masks",
        type=int,
        metavar="K",
        default=16,
        help="Number of masks in MC-dropout (default: 16).",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        metavar="FILE",
        required=True,
        help="File for the animation, .gif, or .mp4 with rlscan[video].",
    )
    output.add_argument(
        "--max-frames",
        type=int,
        metavar="N",
        default=MOST_FRAMES,
        help="Maximum number of frames (default: %(default)s).",
    )
    output.add_argument("--overwrite", action="store_true", help="Overwrite FILE if it exists.")
    return parser


def _render(options: Namespace) -> None:
    check_new_file(options.output, FORMATS, overwrite=options.overwrite)
    require_format(Path(options.output).suffix.lower())
    check_counts(options, "masks", "max_frames")
    run, which = choose_run(options)
    trained = load_player(options, run)
    num_masks = options.masks if options.uncertainty else 0
    needed = evaluation_bytes(trained.policy, trained.env, 1, num_masks=num_masks)
    require_memory(needed, "fewer --masks", "the episode")
    episode = play(
        trained,
        seed=options.seed,
        network=options.network,
        action=options.action,
        num_masks=options.masks if options.uncertainty else None,
    )
    if episode.networks is not None and np.ptp(episode.networks.policy, axis=1).max() == 0:
        raise ValueError(
            f"the policy of {options.run_dir} has no dropout, so that no networks can disagree; "
            "leave out --uncertainty"
        )
    name = trained.config.env.title
    suffix = Path(options.output).suffix.lower()
    content, num_steps = render(
        episode, name, trained.env, max_frames=options.max_frames, suffix=suffix
    )
    write_whole(Path(options.output), content)
    length, total = int(episode.length), float(episode.reward[: int(episode.length)].sum())
    shown = "" if num_steps == length else f" (the first {num_steps:,} are drawn)"
    print(f"{options.output}: {which}{length:,} steps{shown}, return {total:.4g}")
