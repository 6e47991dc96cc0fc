"""Evaluations of a run: their keys, their summaries, and `evaluations.csv`."""

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PRNGKeyArray

from .._core.files import append, write_whole
from .._core.types import Environment, Policy
from .._rollout.evaluate import Evaluation, evaluate
from ..random._keys import key as make_key
from ._config import Config
from ._scores import bootstrap_interval, iqm

EVALUATIONS_FILE = "evaluations.csv"


_NUM_RESAMPLES = 2000  # of as many episodes as there were, which may be very many


_DOMAINS = {"after": 0x6576616C, "during": 0x76616C69}


def evaluation_key(
    seed: int, when: Literal["after", "during"] = "after", *, generator: str = "mix32"
) -> PRNGKeyArray:
    """The key of an evaluation: none of those that a training run draws from, whatever the seeds.

    A run splits the key of its seed, in as many parts as it has uses for. Here a number is folded
    into it that is far above: with any generator that is another key than the parts are, and the
    two trees have no branch in common. So an evaluation of seed 0 meets no environment, action or
    mask that training with seed 0 met. The evaluations during training have one of their own: who
    chooses a run by them can judge it by others afterwards.

    **Arguments:**

    - `seed`: of the evaluation, or of the run during which it is.
    - `when`: `"after"` training, or `"during"` it.
    - `generator`: as for `rlscan.key`.
    """
    return jax.random.fold_in(make_key(seed, generator=generator), _DOMAINS[when])


def summarize(evaluation: Evaluation) -> dict[str, float | int]:
    """Numbers for a table, of `[E]` episodes, or of `[K, E / K]` with MC-dropout.

    Intervals are 95 % bootstrap intervals over episodes. With MC-dropout they are over networks,
    with all episodes of each: what one mask did is not independent.
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


class Evaluations:
    """Evaluates a policy at intervals of a run, and keeps what came out in `evaluations.csv`.

    Each evaluation begins from the same keys: two rows differ by what was learned between them. It
    takes nothing from the run and leaves nothing in it, so a run is the same with and without.
    """

    def __init__(
        self,
        config: Config,
        env: Environment,
        directory: Path,
        *,
        runs: Sequence[Mapping[str, Any]] | None = None,
        num_updates_done: int = 0,
    ):
        """**Arguments:**

        - `config`: of the run, with `eval_interval` in updates, 0 for never.
        - `env`: of the run.
        - `directory`: of the run.
        - `runs`: of several that are trained together, so that each array of the policy has an axis
            of runs in front: what the rows of each begin with, such as `{"run": 0, "seed": 3}`.
        - `num_updates_done`: of a run that goes on; rows of later updates are taken away.
        """
        self._config, self._file, self._runs = config, directory / EVALUATIONS_FILE, runs
        one = partial(evaluate, env=env, num_episodes=config.eval_episodes, action="mode")

        def evaluated(policy: Policy, key: PRNGKeyArray) -> Evaluation:
            return one(policy, key=key)

        mapped = eqx.filter_vmap(evaluated, in_axes=(eqx.if_array(0), 0))
        self._evaluate: Any = eqx.filter_jit(evaluated if runs is None else mapped)
        self._forget_after(num_updates_done)

    @cached_property
    def _keys(self) -> Key[Array, "*runs"]:
        """Of each evaluation, `[runs]` of several. To compile them takes a tenth of a second, and
        mostly there is none."""
        runs = self._runs
        run_seeds = [self._config.seed] if runs is None else [run["seed"] for run in runs]
        keys = [evaluation_key(s, "during", generator=self._config.generator) for s in run_seeds]
        return keys[0] if runs is None else jnp.stack(keys)

    def next_due(self, num_updates: int) -> int:
        """After how many updates the next is to be, when so many were made."""
        every = self._config.eval_interval or sys.maxsize
        return num_updates - num_updates % every + every

    def add(self, num_updates: int, policy: Policy) -> list[dict[str, Any]]:
        """Evaluates, and appends a row for each run. `OSError` if the disk is full.

        **Arguments:**

        - `num_updates`: that the policy has learned for.
        - `policy`: as it is trained.

        **Returns:** the rows.
        """
        result = jax.device_get(self._evaluate(policy, self._keys))
        steps_per_update = self._config.ppo.num_envs * self._config.ppo.num_steps
        place = {"update": num_updates, "step": num_updates * steps_per_update}
        if self._runs is None:
            rows = [{**place, **summarize(result)}]
        else:
            each = [jax.tree.map(itemgetter(i), result) for i in range(len(self._runs))]
            rows = [
                {**run, **place, **summarize(one)}
                for run, one in zip(self._runs, each, strict=True)
            ]
        self._append(rows)
        return rows

    def _append(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        with open(self._file, "ab", buffering=0) as file:
            if file.tell() == 0:
                table.writeheader()
            table.writerows(rows)
            append([file], [text.getvalue().encode()])

    def _forget_after(self, num_updates: int) -> None:
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
            if line.endswith("\n") and int(line.split(",")[column]) <= num_updates
        ]
        write_whole(self._file, "".join([header, *kept]).encode())
