"""`rlscan evaluate RUN_DIR`: returns of a run's policy. Its options are shared with `render`."""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import equinox as eqx
import jax
import numpy as np

from .._core.compile_cache import use_compile_cache
from .._core.files import write_whole
from .._rollout.evaluate import Action, Evaluation, Network, evaluate
from ..runs._evaluations import evaluation_key, summarize
from ..runs._footprint import evaluation_bytes, require_memory
from ..runs._load import Trained, load_trained
from .terminal import Parser, check_counts, check_new_file, command, report


def player_parser(prog: str, description: str) -> Parser:
    """A parser with the options that choose the policy, its actions and the seed."""
    parser = Parser(
        prog=prog,
        description=f"{description} Whatever the seed, no episode uses random numbers that "
        "training used.",
    )
    parser.add_argument("run_dir", help="Run directory, as written by `rlscan train`.")
    parser.add_argument(
        "--run",
        type=int,
        help="Number of the run, from 0, if several were trained together.",
    )
    parser.add_argument(
        "--action",
        choices=get_args(Action),
        default="mode",
        help="Whether to sample each action or take the mode of its distribution (default: mode).",
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed for the episodes (default: 0).")
    return parser


def load_player(options: Namespace) -> Trained:
    """Load the run that the options name, with its policy.

    **Raises:** `ValueError` for a seed out of range, and as `load_trained`.
    """
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"--seed must be from 0 to {2**32 - 1}, got {options.seed}")
    trained = load_trained(options.run_dir, run=options.run)
    if trained.config.compile_cache:
        use_compile_cache()
    return trained


@command
def evaluate_main(argv: Sequence[str] | None = None, *, prog: str = "evaluate.py") -> int:
    """The command `rlscan evaluate`, also `scripts/evaluate.py`. Returns the exit status."""
    options = _parser(prog).parse_args(sys.argv[1:] if argv is None else argv)
    return report(lambda: _evaluate(options))


def _parser(prog: str) -> Parser:
    parser = player_parser(
        prog,
        "Play whole episodes with the policy of a run, and print its return with 95 % bootstrap "
        "intervals.",
    )
    parser.add_argument(
        "--episodes", type=int, default=100, help="Number of episodes (default: 100)."
    )
    parser.add_argument(
        "--network",
        choices=get_args(Network),
        default="inference",
        help="Network that plays: without dropout (inference, the default), with dropout as in "
        "training (train), or several networks with a fixed mask each (mc-dropout).",
    )
    parser.add_argument(
        "--masks", type=int, default=10, help="Number of masks in mc-dropout (default: 10)."
    )
    parser.add_argument(
        "--max-steps",
        type=int,
        help="Number of steps after which an episode is cut (default: the environment's time "
        "limit).",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="Write the statistics and all returns to this file."
    )
    parser.add_argument("--overwrite", action="store_true", help="Overwrite FILE if it exists.")
    return parser


def _evaluate(options: Namespace) -> None:
    if options.json is not None:
        check_new_file(options.json, [".json"], overwrite=options.overwrite, option="--json")
    check_counts(options, "episodes", "masks", "max_steps")
    trained = load_player(options)
    num_masks = options.masks if options.network == "mc-dropout" else 0
    needed = evaluation_bytes(
        trained.policy,
        trained.env,
        options.episodes,
        max_steps=options.max_steps,
        num_masks=num_masks,
    )
    require_memory(needed, "fewer --episodes or --max-steps", "the evaluation")
    result = _play(trained, options)
    figures = summarize(result)
    if result.spread is not None:
        figures |= _disagreement(result)
    _show(trained, options, result, figures)
    if options.json is not None:
        returns = np.asarray(result.episode_return).tolist()
        settings = {k: v for k, v in vars(options).items() if k not in ("json", "overwrite")}
        written = {**settings, **figures, "episode_returns": returns}
        write_whole(Path(options.json), json.dumps(written, indent=1).encode() + b"\n")


def _play(trained: Trained, options: Namespace) -> Evaluation:
    config = trained.config
    played: Any = eqx.filter_jit(evaluate)(
        trained.policy,
        trained.env,
        num_episodes=options.episodes,
        key=evaluation_key(options.seed, generator=config.generator),
        action=options.action,
        network=options.network,
        num_masks=options.masks,
        max_steps=options.max_steps,
        key_schedule=config.ppo.key_schedule,
    )
    return jax.device_get(played)


def _disagreement(result: Evaluation) -> dict[str, float]:
    """Standard deviations over the masks, averaged over steps and episodes."""
    assert result.spread is not None
    means = {f"spread_{k}": float(np.mean(v)) for k, v in result.spread.distribution.items()}
    return {
        **means,
        "spread_value": float(np.mean(result.spread.value)),
        "spread_episode_return": float(np.asarray(result.spread.episode_return)),
    }


def _show(
    trained: Trained, options: Namespace, result: Evaluation, figures: dict[str, Any]
) -> None:
    def bounded(name: str) -> str:
        value, low, high = (figures[f"{name}{end}"] for end in ("", "_low", "_high"))
        return f"{value:.4g} [{low:.4g}, {high:.4g}]"

    returns = np.asarray(result.episode_return)
    print(
        f"{trained.config.env.name}, {options.run_dir}: {returns.size:,} episodes, "
        f"{options.action}, {options.network}, seed {options.seed}"
    )
    print(f"return  IQM   {bounded('episode_return_iqm')}")
    print(f"        mean  {bounded('episode_return')}")
    print(f"        from  {returns.min():.4g} to {returns.max():.4g}")
    print(f"length  mean  {figures['episode_length']:.4g} steps")
    if result.spread is not None:
        print(f"spread over {options.masks} masks, mean standard deviations:")
        for name, value in figures.items():
            if name.startswith("spread_"):
                print(f"        {name.removeprefix('spread_'):<14}  {value:.4g}")
    if figures["num_cut"]:
        print(f"{figures['num_cut']:,} episodes were cut before they ended")
