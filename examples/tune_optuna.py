"""Tune PPO with Optuna: each trial trains three seeds side by side, and bad trials are pruned.

    pip install optuna
    python examples/tune_optuna.py [TRIALS]

Trials of equal shapes are one program, which is compiled once.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optuna  # pyright: ignore[reportMissingImports]

import rlscan

ENV = rlscan.make("CartPole-v1")
TOTAL_STEPS = 50_000


class Prune:
    """Report the return to Optuna every tenth update, and stop a trial that falls behind."""

    interval = 10

    def __init__(self, trial):
        self.trial, self.value = trial, 0.0

    def on_update(self, state, metrics):
        self.value = float(np.nan_to_num(metrics["return_mean_100"]).mean())  # NaN: none ended yet
        self.trial.report(self.value, int(state.num_updates[0]))
        return rlscan.runs.Stop("pruned") if self.trial.should_prune() else None


def objective(trial):
    config = rlscan.ppo.PPOConfig(
        num_envs=16,
        num_steps=64,
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        gamma=trial.suggest_float("gamma", 0.9, 0.999),
        entropy_coef=trial.suggest_float("entropy_coef", 1e-4, 1e-1, log=True),
    )
    policy = partial(rlscan.policies.ActorCritic, ENV, dropout=0.1)
    prune, keys = Prune(trial), jax.random.split(rlscan.key(1000), 3)
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory, "run")
        settings = {"total_steps": TOTAL_STEPS, "output": output, "key": keys}
        state = rlscan.fit(policy, ENV, config, callbacks=[prune], **settings)
    if int(state.num_updates[0]) < TOTAL_STEPS // (16 * 64):
        raise optuna.TrialPruned
    return prune.value


if __name__ == "__main__":
    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=int(sys.argv[1]) if len(sys.argv) > 1 else 20)
    print(study.best_params)
