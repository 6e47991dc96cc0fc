"""`DEFECTS`: mistakes that have been made, and the checks that find them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from . import _wrong_functions as functions, _wrong_rollouts as rollouts
from ._evaluation import check_evaluation
from ._gae import check_gae
from ._gradient_clip import check_gradient_clip
from ._minibatches import check_minibatches
from ._ratio import check_ratio
from ._recurrence import check_recurrence
from ._replay import check_replay
from ._reward_scaling import check_reward_scaling
from ._rollout import check_rollout
from ._schedule import check_learning_rate_schedule
from ._truncation import check_truncation
from ._value_loss import check_value_loss


class Defect(NamedTuple):
    """An implementation with one mistake, and the check that must refuse it."""

    check: Callable[[Any], None]  # `check(implementation)` raises a ConformanceError …
    implementation: Callable
    says: str  # … that says this, as a regular expression
    seen_in: str = ""  # where the mistake was read, in a public library; empty if nowhere


def _replay(replay_fn: Callable) -> None:
    check_replay(replay_fn=replay_fn)


def _replay_sequences(replay_fn: Callable) -> None:
    check_recurrence(replay_fn=replay_fn)


def _record_sequences(rollout_fn: Callable) -> None:
    check_recurrence(rollout_fn=rollout_fn)


_recurrent_minibatches = partial(check_minibatches, recurrent=True)
_ratios = functions.log_ratios_with_statistics

DEFECTS: dict[str, Defect] = {
    "truncation is treated as termination": Defect(
        check_gae,
        functions.truncation_as_termination,
        "truncated, .* A truncation is no termination",
        "purejaxrl, rejax, CleanRL's JAX scripts, PufferLib",
    ),
    "the trace is not cut where an episode is truncated": Defect(
        check_gae,
        functions.trace_not_cut,
        "The trace must be cut",
        "jaxnasium 0.0.29, skrl",
    ),
    "the observation after the reset is bootstrapped from": Defect(
        check_gae, functions.value_after_the_reset, r"not from value\[t \+ 1\]"
    ),
    "both flags are bootstrapped from": Defect(
        check_gae, functions.both_flags_bootstrap, "A termination wins"
    ),
    "next_value is that of the observation after the reset": Defect(
        check_truncation, rollouts.next_seen, "of a truncated episode's last observation"
    ),
    "the clipped action is stored beside the log-probability of the sample": Defect(
        check_rollout, rollouts.clipped_action, "log_prob of DropoutPolicy", "lerax"
    ),
    "one key is shared by all environments": Defect(
        check_rollout, rollouts.shared_key, "policy keys of .* must all differ"
    ),
    "the key of the next step is recorded": Defect(
        check_rollout, rollouts.records_next_key, "by its recorded key"
    ),
    "a rollout does not continue the one before": Defect(
        check_rollout, rollouts.starts_from_call, "as of one of 2T"
    ),
    "keys are permuted": Defect(_replay, rollouts.permuted_keys, "replayed log_prob"),
    "keys are off by one": Defect(_replay, rollouts.key_off_by_one, "replayed log_prob"),
    "masks are drawn anew": Defect(_replay, rollouts.fresh_keys, "replayed log_prob"),
    "dropout is off in the update": Defect(
        _replay, rollouts.without_dropout, "replayed log_prob .* in training mode"
    ),
    "a recurrent state is reset by the done of the step itself": Defect(
        _replay_sequences,
        rollouts.reset_by_own_done,
        "by the done of the step itself",
        "Stoix rec_ppo",
    ),
    "a recurrent state is never reset": Defect(
        _replay_sequences, rollouts.never_reset, "never reset"
    ),
    "the recurrent state is stored after the step": Defect(
        _record_sequences,
        rollouts.state_after_the_step,
        "not the one after its first step",
        "Stoix rec_ppo",
    ),
    "minibatches stride through time": Defect(
        _recurrent_minibatches,
        functions.minibatches_across_time,
        "a column of a minibatch must be one environment",
        "Stoix rec_ppo",
    ),
    "the rows of a minibatch are torn apart": Defect(
        check_minibatches, functions.minibatches_torn_apart, "must be those of its advantages"
    ),
    "the clipped value loss takes the smaller square": Defect(
        check_value_loss, functions.smaller_value_loss, "It is the larger", "lerax"
    ),
    "gradients are clipped element by element": Defect(
        check_gradient_clip, functions.clip_each_element, "Scale all leaves by one number", "rejax"
    ),
    "the learning rate counts epochs": Defect(
        check_learning_rate_schedule,
        functions.rate_by_epochs,
        "Count gradient steps",
        "jaxnasium 0.0.29",
    ),
    "the last reward leaks into the next episode": Defect(
        check_reward_scaling,
        functions.reward_leaks,
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
        rollouts.evaluates_on_training_key,
        "no episode of an evaluation must start where",
        "rejax, jaxnasium",
    ),
}
"""By what is wrong. `defect.check(defect.implementation)` raises, which shows that a check can."""
