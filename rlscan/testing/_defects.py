"""`DEFECTS`: mistakes that libraries have made, each with the check that finds it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from . import _wrong as wrong
from ._advantage_checks import check_gae, check_reward_scaling
from ._replay_checks import check_recurrence, check_replay
from ._rollout_checks import check_evaluation, check_rollout, check_truncation
from ._update_checks import (
    check_gradient_clip,
    check_learning_rate_schedule,
    check_minibatches,
    check_ratio,
    check_value_loss,
)


class Defect(NamedTuple):
    """An implementation with one mistake, and the check that must refuse it."""

    check: Callable[[Any], None]
    """The check that must refuse it: `check(implementation)` raises a `ConformanceError`."""
    implementation: Callable
    """The function with the mistake."""
    says: str
    """A regular expression that matches the error's message."""
    seen_in: str = ""
    """Public libraries in which the mistake was found; empty if none."""


def _replay(replay_fn: Callable) -> None:
    check_replay(replay_fn=replay_fn)


def _replay_sequences(replay_fn: Callable) -> None:
    check_recurrence(replay_fn=replay_fn)


def _record_sequences(rollout_fn: Callable) -> None:
    check_recurrence(rollout_fn=rollout_fn)


_recurrent_minibatches = partial(check_minibatches, recurrent=True)
_ratios = wrong.log_ratios_with_statistics

DEFECTS: dict[str, Defect] = {
    "truncation is treated as termination": Defect(
        check_gae,
        wrong.truncation_as_termination,
        "at a truncation, .* A truncation is no termination",
        "purejaxrl, rejax, CleanRL's JAX scripts, PufferLib",
    ),
    "the trace is not cut where an episode is truncated": Defect(
        check_gae,
        wrong.trace_not_cut,
        "The trace must be cut",
        "jaxnasium 0.0.29, skrl",
    ),
    "the observation after the reset is bootstrapped from": Defect(
        check_gae, wrong.value_after_the_reset, r"not from value\[t \+ 1\]"
    ),
    "both flags are bootstrapped from": Defect(
        check_gae, wrong.both_flags_bootstrap, "A termination wins"
    ),
    "next_value is that of the observation after the reset": Defect(
        check_truncation, wrong.next_observed, "of a truncated episode's last observation"
    ),
    "the clipped action is stored beside the log-probability of the sample": Defect(
        check_rollout, wrong.clipped_action, "log_prob of DropoutPolicy", "lerax"
    ),
    "one key is shared by all environments": Defect(
        check_rollout, wrong.shared_key, "policy keys of .* must all differ"
    ),
    "the key of the next step is recorded": Defect(
        check_rollout, wrong.records_next_key, "by its recorded key"
    ),
    "a rollout does not continue the one before": Defect(
        check_rollout, wrong.starts_from_call, "as of one of 2T"
    ),
    "keys are permuted": Defect(_replay, wrong.permuted_keys, "replayed log_prob"),
    "keys are off by one": Defect(_replay, wrong.key_off_by_one, "replayed log_prob"),
    "masks are drawn again": Defect(_replay, wrong.fresh_keys, "replayed log_prob"),
    "dropout is off in the update": Defect(
        _replay, wrong.without_dropout, "replayed log_prob .* in training mode"
    ),
    "a recurrent state is reset by the done of the step itself": Defect(
        _replay_sequences,
        wrong.reset_by_own_done,
        "by the done of the step itself",
        "Stoix rec_ppo",
    ),
    "a recurrent state is never reset": Defect(_replay_sequences, wrong.never_reset, "never reset"),
    "the recurrent state is stored after the step": Defect(
        _record_sequences,
        wrong.state_after_the_step,
        "not the one after its first step",
        "Stoix rec_ppo",
    ),
    "minibatches stride through time": Defect(
        _recurrent_minibatches,
        wrong.minibatches_across_time,
        "a column of a minibatch must be one environment",
        "Stoix rec_ppo",
    ),
    "the rows of a minibatch are torn apart": Defect(
        check_minibatches, wrong.minibatches_torn_apart, "must be those of its advantages"
    ),
    "the clipped value loss takes the smaller square": Defect(
        check_value_loss, wrong.smaller_value_loss, "It is the larger", "lerax"
    ),
    "gradients are clipped element by element": Defect(
        check_gradient_clip, wrong.clip_each_element, "Scale all leaves by one number", "rejax"
    ),
    "the learning rate counts epochs": Defect(
        check_learning_rate_schedule,
        wrong.rate_by_epochs,
        "Count gradient steps",
        "jaxnasium 0.0.29",
    ),
    "the last reward leaks into the next episode": Defect(
        check_reward_scaling,
        wrong.reward_leaks,
        "its last reward is counted in the next one",
        "purejaxrl, rejax",
    ),
    "statistics move between the rollout and its update": Defect(
        check_ratio, partial(_ratios, "before", "after"), "statistics of normalisers", "brax"
    ),
    "statistics move during the rollout": Defect(
        check_ratio, partial(_ratios, "step", "after"), "statistics of normalisers"
    ),
    "evaluation draws from the key of training": Defect(
        check_evaluation,
        wrong.evaluates_with_training_key,
        "no episode of an evaluation must start where",
        "rejax, jaxnasium",
    ),
}
"""Defects by name. `defect.check(defect.implementation)` raises, so the check can fail."""
