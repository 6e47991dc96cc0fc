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
from ..runs._build import members
from ..runs._evaluations import evaluation_key, summarize
from ..runs._final import median_run_of, policy_file
from ..runs._footprint import evaluation_bytes, require_memory
from ..runs._load import Trained, load_config, load_trained
from ..runs._policy_file import load_policy
from ..runs._scores import bootstrap_interval, iqm
from .terminal import Parser, check_counts, check_new_file, command, report


def policy_parser(
    prog: str, description: str, *, usage: str, default_run: str, verb: str
) -> Parser:
    """A parser with the options that choose a policy, which is there to play, or to export."""
    parser = Parser(prog=prog, usage=f"{prog} RUN_DIR {usage}", description=description)
    policy = parser.add_argument_group("policy")
    policy.add_argument(
        "run_dir", metavar="RUN_DIR", help="Run directory, as written by `rlscan train`."
    )
    policy.add_argument(
        "--run",
        type=int,
        metavar="N",
        help="Number of the run, from 0, if several were trained together "
        f"(default: {default_run}).",
    )
    policy.add_argument(
        "--checkpoint",
        metavar="best|last|FILE",
        default="last",
        help=f"Policy to {verb}: the last one (default), the one before which episodes returned "
        "most, or that of a file.",
    )
    add_allow_option(policy)
    return parser


def player_parser(
    prog: str, description: str, *, usage: str, default_run: str
) -> tuple[Parser, Any]:
    """A parser with the options that choose the policy, its actions and the seed.

    **Returns:** the parser, and the group of options about episodes.
    """
    description = (
        f"{description} Whatever the seed, no episode uses random numbers that training used."
    )
    parser = policy_parser(prog, description, usage=usage, default_run=default_run, verb="play")
    episodes = parser.add_argument_group("episodes")
    episodes.add_argument(
        "--action",
        choices=get_args(Action),
        default="mode",
        help="Whether to sample each action or take the mode of its distribution (default: mode).",
    )
    episodes.add_argument(
        "--seed", type=int, metavar="S", default=0, help="Seed for the episodes (default: 0)."
    )
    return parser, episodes


def add_allow_option(group: Any) -> None:
    group.add_argument(
        "--allow",
        metavar="MODULE",
        action="append",
        default=[],
        help="Build classes of this module too, if the run names any. May be repeated.",
    )


def load_player(options: Namespace, run: int | None) -> Trained:
    """Load a run for episodes, with the policy that the options name.

    **Arguments:**

    - `options`: of a `player_parser`.
    - `run`: the number of the run, if several were trained together.

    **Raises:** `ValueError` for a seed out of range, and as `load_chosen`.
    """
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"--seed must be from 0 to {2**32 - 1}, got {options.seed}")
    trained = load_chosen(options, run)
    if trained.config.compile_cache:
        use_compile_cache()
    return trained


def load_chosen(options: Namespace, run: int | None) -> Trained:
    """Load a run, with the policy that the options of a `policy_parser` name.

    **Raises:** as `load_trained` and `policy_file`.
    """
    trained = load_trained(options.run_dir, run=run, allow=options.allow)
    if options.checkpoint != "last":
        file = policy_file(options.run_dir, options.checkpoint)
        trained = trained._replace(
            policy=load_policy(file, run=run, inference=False, allow=options.allow)
        )
    return trained


def runs_in(options: Namespace) -> list[dict[str, Any]]:
    """The number, seed and swept settings of each run in the directory that the options name."""
    runs = members(load_config(options.run_dir))
    return [{"run": i, "seed": one.seed, **one.swept} for i, one in enumerate(runs)]


def choose_run(options: Namespace) -> tuple[int | None, str]:
    """The number of the run to draw or to export, and what to say of it."""
    runs = runs_in(options)
    if len(runs) == 1 or options.run is not None:
        return options.run, ""
    try:
        chosen = median_run_of(options.run_dir)
    except ValueError as error:
        raise ValueError(f"{error}; choose one of the {len(runs)} runs: --run 0") from None
    return chosen, f"run {chosen}, of seed {runs[chosen]['seed']} and median return, "


@command
def evaluate_main(argv: Sequence[str] | None = None, *, prog: str = "evaluate.py") -> int:
    """The command `rlscan evaluate`, also `scripts/evaluate.py`. Returns the exit status."""
    options = _parser(prog).parse_args(sys.argv[1:] if argv is None else argv)
    return report(lambda: _evaluate(options))


def _parser(prog: str) -> Parser:
    parser, episodes = player_parser(
        prog,
        "Play whole episodes with the policy of a run, and print its return with 95 % bootstrap "
        "intervals. Of several runs that were trained together, each has a row.",
        usage="[OPTIONS]",
        default_run="all of them",
    )
    episodes.add_argument(
        "--episodes", type=int, metavar="N", default=100, help="Number of episodes (default: 100)."
    )
    episodes.add_argument(
        "--network",
        choices=get_args(Network),
        default="inference",
        help="Network that plays: without dropout (inference, the default), with dropout as in "
        "training (train), or several networks with a fixed mask each (mc-dropout).",
    )
    episodes.add_argument(
        "--masks",
        type=int,
        metavar="K",
        default=10,
        help="Number of masks in mc-dropout (default: 10).",
    )
    episodes.add_argument(
        "--max-steps",
        type=int,
        metavar="T",
        help="Number of steps after which an episode is cut (default: the environment's time "
        "limit).",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json", metavar="FILE", help="Write the statistics and all returns to this file."
    )
    output.add_argument("--overwrite", action="store_true", help="Overwrite FILE if it exists.")
    return parser


def _evaluate(options: Namespace) -> None:
    if options.json is not None:
        check_new_file(options.json, [".json"], overwrite=options.overwrite, option="--json")
    check_counts(options, "episodes", "masks", "max_steps")
    runs = runs_in(options)
    if options.run is None and len(runs) > 1:
        written = _evaluate_all(options, runs)
    else:
        trained = load_player(options, options.run)
        result, figures = _evaluate_one(trained, options)
        _show(trained, options, result, figures)
        written = figures | _returns(result)
    if options.json is not None:
        settings = {k: v for k, v in vars(options).items() if k not in ("json", "overwrite")}
        text = json.dumps({**settings, **written}, indent=1)
        write_whole(Path(options.json), text.encode() + b"\n")


def _evaluate_one(trained: Trained, options: Namespace) -> tuple[Evaluation, dict[str, Any]]:
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
    return result, figures if result.spread is None else figures | _disagreement(result)


def _returns(result: Evaluation) -> dict[str, Any]:
    return {"episode_returns": np.asarray(result.episode_return).tolist()}


def _evaluate_all(options: Namespace, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Evaluate all runs on the same episodes, and print a row for each; returns the figures."""
    rows, settings = [], {}
    for run in runs:
        trained = load_player(options, run["run"])
        result, figures = _evaluate_one(trained, options)
        if not rows:
            _announce(trained, options, f"{len(runs)} runs, {options.episodes:,} episodes of each")
        rows.append({**run, **figures, **_returns(result)})
        swept = {k: v for k, v in run.items() if k not in ("run", "seed")}
        name = ", ".join(f"{k} {v:g}" for k, v in swept.items())
        settings.setdefault(name, []).append(figures["episode_return"])
    shown = {
        **{name: [f"{row[name]:.6g}" for row in rows] for name in runs[0]},
        "return IQM": [_bounded(row, "episode_return_iqm") for row in rows],
        "mean": [_bounded(row, "episode_return") for row in rows],
        "steps": [f"{row['episode_length']:.4g}" for row in rows],
    }
    widths = [max(map(len, [name, *cells])) for name, cells in shown.items()]
    for line in (list(shown), *zip(*shown.values(), strict=True)):
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())
    overall = []
    for name, means in settings.items():
        low, high = bootstrap_interval(means)
        overall.append({"setting": name, "episode_return_iqm": float(iqm(means))})
        overall[-1] |= {"episode_return_iqm_low": low, "episode_return_iqm_high": high}
        where = f" at {name}" if name else ""
        words = _bounded(overall[-1], "episode_return_iqm")
        print(f"IQM over {len(means)} seeds of their mean returns{where}: {words}")
    _warn_of_cuts(sum(row["num_cut"] for row in rows))
    return {"runs": rows, "over_seeds": overall}


_evaluate_jitted = eqx.filter_jit(evaluate)  # compiled once for all runs of a directory


def _play(trained: Trained, options: Namespace) -> Evaluation:
    config = trained.config
    played: Any = _evaluate_jitted(
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


def _announce(trained: Trained, options: Namespace, what: str) -> None:
    checkpoint = "" if options.checkpoint == "last" else f", checkpoint {options.checkpoint}"
    print(
        f"{trained.config.env.title}, {options.run_dir}: {what}, {options.action}, "
        f"{options.network}, seed {options.seed}{checkpoint}"
    )


def _bounded(figures: dict[str, Any], name: str) -> str:
    value, low, high = (figures[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.4g} [{low:.4g}, {high:.4g}]"


def _warn_of_cuts(number: int) -> None:
    if number:
        print(f"{number:,} episodes were cut before they ended")


def _show(
    trained: Trained, options: Namespace, result: Evaluation, figures: dict[str, Any]
) -> None:
    returns = np.asarray(result.episode_return)
    _announce(trained, options, f"{returns.size:,} episodes")
    print(f"return  IQM   {_bounded(figures, 'episode_return_iqm')}")
    print(f"        mean  {_bounded(figures, 'episode_return')}")
    print(f"        from  {returns.min():.4g} to {returns.max():.4g}")
    print(f"length  mean  {figures['episode_length']:.4g} steps")
    if result.spread is not None:
        print(f"spread over {options.masks} masks, mean standard deviations:")
        for name, value in figures.items():
            if name.startswith("spread_"):
                print(f"        {name.removeprefix('spread_'):<14}  {value:.4g}")
    _warn_of_cuts(figures["num_cut"])
