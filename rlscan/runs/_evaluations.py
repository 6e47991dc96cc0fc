"""Evaluations of a run: their keys, their summaries, and `evaluations.csv`."""

import csv
import io
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from .._core.files import append, write_whole
from .._core.program import Program
from .._core.types import Environment, Policy
from .._rollout.evaluate import Evaluation, evaluate
from ..ppo._runs_axis import over_runs, run_of
from ..random._keys import key as make_key
from ._scores import bootstrap_interval, iqm

EVALUATIONS_FILE = "evaluations.csv"

_NUM_RESAMPLES = 2000  # each has as many episodes as were played, which may be very many

_DOMAINS = {"after": 0x6576616C, "during": 0x76616C69}


def evaluation_key(
    seed: int, when: Literal["after", "during"] = "after", *, generator: Any = "mix32"
) -> PRNGKeyArray:
    """Make the key of an evaluation, which no training run draws from, whatever the seeds.

    A run splits the key of its seed into as many parts as it has uses for. Here a number far above
    is folded into it. With any generator that is a different key from the parts, and the two trees
    share no branch: an evaluation of seed 0 meets no environment, action or mask that training with
    seed 0 met. Evaluations during training have their own keys, so a run that was chosen by them
    can be judged by others afterwards.

    **Arguments:**

    - `seed`: of the evaluation, or of the run that is evaluated during training.
    - `when`: `"after"` training, or `"during"` it.
    - `generator`: as for `rlscan.key`.
    """
    return jax.random.fold_in(make_key(seed, generator=generator), _DOMAINS[when])


def summarize(evaluation: Evaluation) -> dict[str, float | int]:
    """Summarise an evaluation in numbers for a table.

    Intervals are 95 % bootstrap intervals over episodes. With MC-dropout they are over networks,
    each with all its episodes, because the episodes of one mask are not independent.

    **Arguments:**

    - `evaluation`: from `rlscan.evaluate`: E episodes `[E]`, or `[K, E / K]` with MC-dropout.
    """
    returns = np.asarray(evaluation.episode_return, np.float64)

    def bounds(statistic: Any) -> tuple[float, float]:
        pooled = lambda sets: statistic(sets.reshape(len(sets), -1), axis=1)  # noqa: E731
        return bootstrap_interval(returns, statistic=pooled, num_resamples=_NUM_RESAMPLES)

    low, high = bounds(iqm)
    mean_low, mean_high = bounds(np.mean)
    return {
        "num_episodes": returns.size,
        "episode_return": float(returns.mean()),
        "episode_return_low": float(mean_low),
        "episode_return_high": float(mean_high),
        "episode_return_iqm": float(iqm(returns.reshape(-1))),
        "episode_return_iqm_low": float(low),
        "episode_return_iqm_high": float(high),
        "episode_length": float(np.mean(evaluation.episode_length)),
        "num_cut": int(np.sum(~np.asarray(evaluation.finished))),
    }


def make_evaluator(
    env: Environment, seeds: Sequence[int], *, num_episodes: int, generator: Any
) -> Callable[[Policy], list[dict[str, float | int]]]:
    """Make a function that evaluates the policy of a run, or of several side by side.

    Each evaluation begins from the same keys, so two rows differ by what was learned in between. It
    draws nothing from the run's keys: a run is the same with and without it.

    **Arguments:**

    - `env`: of the run.
    - `seeds`: those of the runs. If there are several, every array of the policy is `[R, …]`.
    - `num_episodes`: whole episodes for each run, by the mode of the distribution.
    - `generator`: as for `rlscan.key`.

    **Returns:** a function from the policy to the figures of each run, see `summarize`.
    """
    make = partial(evaluation_key, when="during", generator=generator)
    keys = make(seeds[0]) if len(seeds) == 1 else jnp.stack([make(seed) for seed in seeds])

    def one(policy: Policy, key: PRNGKeyArray) -> Evaluation:
        return evaluate(policy, env, num_episodes=num_episodes, action="mode", key=key)

    compiled: dict[Hashable, Callable] = {}  # by the devices of the policy's arrays

    def evaluate_all(policy: Policy) -> list[dict[str, float | int]]:
        arrays = jax.tree.leaves(eqx.filter(policy, eqx.is_array))
        places = tuple(getattr(x, "sharding", None) for x in arrays)
        if places not in compiled:
            compiled[places] = Program(over_runs(one, keys.shape), policy, keys).compile()
        result = jax.device_get(compiled[places](policy, keys))
        return [summarize(run_of(result, i, keys.shape)) for i in range(len(seeds))]

    return evaluate_all


class EvaluationsFile:
    """`evaluations.csv` of a run directory."""

    def __init__(self, directory: Path, num_updates_done: int = 0):
        """Open it; rows of later updates than those done are removed."""
        self._file = directory / EVALUATIONS_FILE
        if not self._file.exists():
            return
        header, *lines = self._file.read_text().splitlines(keepends=True) or [""]
        if not header.endswith("\n"):  # the disk was full, or the run was killed, at the first row
            self._file.unlink()
            return
        column = header.rstrip().split(",").index("update")
        kept = [
            line
            for line in lines
            if line.endswith("\n") and int(line.split(",")[column]) <= num_updates_done
        ]
        write_whole(self._file, "".join([header, *kept]).encode())

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows. `OSError` if the disk is full; the file is then as it was."""
        text = io.StringIO()
        table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        with open(self._file, "ab", buffering=0) as file:
            if file.tell() == 0:
                table.writeheader()
            table.writerows(rows)
            append([file], [text.getvalue().encode()])
