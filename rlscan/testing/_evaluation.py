"""`check_evaluation`: whether an evaluation sees what training has seen."""

from collections.abc import Callable
from typing import Any

import numpy as np

import rlscan

from ._error import require
from ._walk import Walk


def check_evaluation(train_and_evaluate: Callable, *, key: Any = None) -> None:
    """Checks that evaluation and training draw from different streams of random numbers.

    `Walk` starts at a random place, so that two equal starts are two draws from one key.

    **Arguments:**

    - `train_and_evaluate`: `train_and_evaluate(env, key) -> (seen_in_training,
        seen_in_evaluation)`, observations `[…, 3]` of all steps of either, in any order; of a few
        updates, and of one evaluation or more.
    - `key`: consumed. `rlscan.key(0)` if not given.

    **Raises:** `ConformanceError`.
    """
    seen = train_and_evaluate(Walk(), rlscan.key(0) if key is None else key)
    training, evaluation = (_starts(x) for x in seen)
    edit = "Return the observations [x, y, time] of all steps"
    for name, starts in (("training", training), ("evaluation", evaluation)):
        require(len(starts) >= 2, f"{name} must start two episodes at least", len(starts), edit)
    shared = set(training) & set(evaluation)
    edit = "Split the key: one for training, another for each evaluation, each used once"
    required = "no episode of an evaluation must start where one of training did"
    require(not shared, required, f"{len(shared)} of {len(evaluation)} that do", edit)
    edit = "Give each environment, and each reset, a key of its own"
    required = "the episodes of training must start at different places"
    got = f"{len(set(training))} places for {len(training)} episodes"
    require(len(set(training)) == len(training), required, got, edit)


def _starts(observations: Any) -> list[tuple[float, ...]]:
    rows = np.asarray(observations).reshape(-1, 3)
    return [tuple(row.tolist()) for row in rows[rows[:, 2] == 0]]
