"""`play`: an episode of a run's policy."""

from typing import Any, Literal

import equinox as eqx
import jax

from .._rollout.evaluate import Action
from ..runs._evaluations import evaluation_key
from ..runs._load import Trained
from .episode import Episode, record


def play(
    trained: Trained,
    *,
    seed: int = 0,
    network: Literal["inference", "train"] = "inference",
    action: Action = "mode",
    num_masks: int | None = None,
) -> Episode:
    """Play an episode with random numbers that training did not use.

    **Arguments:**

    - `trained`: the run.
    - `seed`: of the episode.
    - `network`: whether dropout is off, or on as in training.
    - `action`, `num_masks`: as for `record`.

    **Returns:** the episode, on the host. It is cut at the time limit of the environment, or after
    1000 steps if there is none.
    """
    played: Any = eqx.filter_jit(record)(
        eqx.nn.inference_mode(trained.policy, value=network == "inference"),
        trained.env,
        key=evaluation_key(seed, generator=trained.config.generator),
        max_steps=getattr(trained.env, "time_limit", None) or 1000,
        action=action,
        num_masks=num_masks,
    )
    return jax.device_get(played)
