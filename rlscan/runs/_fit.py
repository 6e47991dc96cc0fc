"""`fit`: PPO from Python, in a run directory."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key

from .._core.files import entry
from .._core.program import stored_result
from .._core.require import require_positive
from .._core.types import Environment, Policy
from ..ppo._algorithm import PPO, Algorithm, count_updates, steps_per_update
from ..ppo._config import PPOConfig
from ..ppo._hook import OnBatch
from ..ppo._losses import Loss, ppo_loss
from ..ppo._optimizer import Optimizer
from ..ppo._schedule import Schedule, is_schedule
from ..ppo._train import START, first_state, train
from ..ppo._training import Training
from ..ppo._update import TrainState
from ..ppo._verdicts import check_divergences
from ..random._keys import KeyLike, as_keys, generator_of, impl_of
from ._callbacks import Callback, Callbacks
from ._checkpoint import Checkpoint
from ._directory import check_output, holds_run
from ._evaluations import make_evaluator
from ._load import load_settings
from ._loggers import Logger
from ._resume import LONGER, check_unchanged
from ._run import Run, Setup


def fit(
    policy: Policy | Callable[..., Policy],
    env: Environment,
    config: PPOConfig | Algorithm,
    *,
    total_steps: int,
    schedule_steps: int | None = None,
    output: str | os.PathLike,
    key: KeyLike,
    loss: Loss = ppo_loss,
    optimizer: Optimizer | None = None,
    on_batch: OnBatch | None = None,
    resume: bool = True,
    log_interval: int = 1,
    loggers: Iterable[Logger] = (),
    callbacks: Sequence[Callback] = (),
    eval_interval: int = 0,
    eval_episodes: int = 64,
    checkpoint_interval: float = 30.0,
    keep_checkpoints: int = 2,
    strict: bool | float = False,
    debug: bool = False,
    mesh: Mesh | None = None,
) -> TrainState:
    """Train a policy in a run directory, as `rlscan train` does.

    Started again, a script goes on from its last checkpoint, bit for bit, and a finished run is
    only read. A larger `total_steps` extends it. Annealing and schedules keep their old horizon
    then, unless `schedule_steps` is given.

    The directory holds `metrics.csv`, `metrics.jsonl`, `evaluations.csv`, `config.yaml`, `run.json`
    and `checkpoints`. `rlscan.load_policy(output, like=policy)` reads the trained policy. For a
    loop that does something of its own with each update, put `rlscan.runs.Run` around
    `rlscan.train`.

    **Arguments:**

    - `policy`, `env`, `config`, `total_steps`, `schedule_steps`, `key`, `loss`, `optimizer`,
        `on_batch`, `strict`, `debug`, `mesh`: as for `rlscan.train`. Keys `[R]` train R runs side
        by side.
    - `output`: the run directory; made if needed.
    - `resume`: whether to go on if `output` holds this run already; `False` refuses.
    - `log_interval`, `loggers`, `checkpoint_interval`, `keep_checkpoints`: as for
        `rlscan.runs.Run`.
    - `callbacks`: called between updates; they may stop the run, or change the state, see
        `rlscan.runs.Callback`.
    - `eval_interval`: updates between evaluations, see `rlscan.evaluate`; 0 means none.
    - `eval_episodes`: episodes of each evaluation, by the mode of the distribution.

    **Returns:** the state after the last update; `state.policy` is the trained policy. Of several
    runs every array has an axis `[R]` in front; `state.divergence` tells which have diverged.

    **Raises:** `ValueError` if `output` cannot be written or holds another run, and whatever
    `rlscan.train` raises; `rlscan.ppo.DivergenceError` if every run has diverged. After an error or
    Ctrl-C in mid-run there is a checkpoint.
    """
    if eval_interval != 0:
        eval_interval = require_positive("eval_interval", eval_interval)
    eval_episodes = require_positive("eval_episodes", eval_episodes)
    goes_on = resume and holds_run(Path(output))
    if not goes_on:
        check_output(output)
    keys = as_keys(key)
    if isinstance(config, PPOConfig):
        schedule_steps = schedule_steps or _saved_horizon(output, goes_on) or int(total_steps)
    settings = _settings(config, schedule_steps, keys)
    run_of = partial(
        Run[TrainState],
        output,
        num_updates=count_updates(total_steps, config),
        steps_per_update=steps_per_update(config),
        config=settings,
        labels=[{"run": i} for i in range(len(keys))] if keys.ndim else ({},),
        log_interval=log_interval,
        loggers=loggers,
        callbacks=callbacks,
        checkpoint_interval=checkpoint_interval,
        keep_checkpoints=keep_checkpoints,
        resume=resume,
        policy=policy_in,
        setup=Setup(check=partial(_check_resumed, Path(output), settings)),
    )
    opened = open_training(
        run_of,
        policy,
        env,
        config,
        keys,
        goes_on=goes_on,
        total_steps=total_steps,
        schedule_steps=schedule_steps,
        loss=loss,
        optimizer=optimizer,
        on_batch=on_batch,
        state_interval=exact_interval(eval_interval, callbacks),
        strict=strict,
        mesh=mesh,
    )
    seeds, generator = range(keys.size), impl_of(keys)
    with opened as (run, training):
        follow(
            run,
            training,
            eval_interval=eval_interval,
            evaluator=lambda: make_evaluator(
                env, seeds, num_episodes=eval_episodes, generator=generator
            ),
            debug=debug,
        )
    if debug:
        check_divergences(training, training.state, debug=True)
    return training.state


def policy_in(state: Any) -> Policy:
    """The policy in the state of an algorithm.

    **Raises:** `ValueError` if there is none, or more than one and no attribute `policy`.
    """
    if hasattr(state, "policy"):
        return state.policy

    def is_policy(node: Any) -> bool:
        return callable(node) and hasattr(node, "initial_state")

    found = [node for node in jax.tree.leaves(state, is_leaf=is_policy) if is_policy(node)]
    if len(found) != 1:
        raise ValueError(
            f"the state of an algorithm must hold the policy that it trains, got {len(found)} "
            "policies; name it: give the state an attribute `policy`"
        )
    return found[0]


def exact_interval(eval_interval: int, callbacks: Sequence[Callback]) -> int | None:
    """The updates after which evaluations and callbacks need the exact state, if any do."""
    return math.gcd(eval_interval, Callbacks(callbacks).interval or 0) or None


@contextmanager
def open_training(
    run_of: Callable[..., Run[TrainState]],
    policy: Any,
    env: Environment,
    config: PPOConfig | Algorithm,
    keys: Key[Array, "*R"],
    *,
    goes_on: bool,
    start: Callable[[Any], Any] | None = None,
    **settings: Any,
) -> Iterator[tuple[Run[TrainState], Training]]:
    """Open a run directory around training: nothing is written before all is checked.

    **Arguments:**

    - `run_of`: makes the run from a state, called as `run_of(state=…)`.
    - `policy`, `env`, `config`, `keys`, `settings`: as for `rlscan.train`.
    - `goes_on`: whether the directory holds this run already.
    - `start`: makes the state that a new run starts from, from the first one.

    **Returns:** a context, of the run and its updates, which are not compiled yet.
    """
    begin = partial(train, env=env, config=config, **settings)
    if not goes_on:
        training = begin(policy, key=keys)
        training.state = training.state if start is None else start(training.state)
        with run_of(state=training.state) as run:
            yield run, training
        return
    # The shapes of the first state are enough to read a checkpoint.
    algorithm = config
    if isinstance(config, PPOConfig):
        own: dict[str, Any] = {name: settings.get(name) for name in ("optimizer", "on_batch")}
        algorithm = PPO(config, **own)
    stored = stored_result(START, policy, keys)
    if stored is not None:
        shapes, _ = stored
    else:
        shapes = eqx.filter_eval_shape(lambda: first_state(policy, env, algorithm, keys))
    with run_of(state=shapes) as run:
        is_new = run.num_updates_done == 0  # it was stopped before its first checkpoint
        if not is_new:
            yield run, begin(None, state=run.state, key=keys)
            return
        training = begin(policy, key=keys)
        training.state = training.state if start is None else start(training.state)
        yield run, training


def follow(
    run: Run[TrainState],
    training: Training,
    *,
    eval_interval: int,
    evaluator: Callable[[], Callable[[Policy], Any]],
    debug: bool,
) -> None:
    """Train, and write metrics, evaluations and checkpoints to the run directory.

    **Arguments:**

    - `run`, `training`: from `open_training`.
    - `eval_interval`: updates between evaluations; 0 means none.
    - `evaluator`: makes the function that evaluates a policy; called only if it is needed.
    - `debug`: whether a divergence is explained.

    **Raises:** `AuditError` if an update fails the audit; `DivergenceError` if every run has
    diverged; `OSError` if the disk is full: files are whole then, and there is a checkpoint.
    """
    _raise_if_all_diverged(training, debug)  # it may have diverged before it was stopped
    evaluate = evaluator() if eval_interval else None
    for state, _ in run.record(training):
        if evaluate is not None and run.num_updates_done % eval_interval == 0:
            run.add_evaluation(evaluate(policy_in(state)))
    _raise_if_all_diverged(training, debug)


def _raise_if_all_diverged(training: Training, debug: bool) -> None:
    divergence = getattr(training.state, "divergence", None)
    if divergence is not None and np.all(np.asarray(divergence.update) > 0):
        check_divergences(training, training.state, debug=debug)


def _settings(
    config: PPOConfig | Algorithm, schedule_steps: int | None, keys: Key[Array, "*R"]
) -> dict[str, Any]:
    """What must be the same when the run goes on, for `config.yaml`."""
    if not isinstance(config, PPOConfig):
        return _settings_of(config, keys)
    numbers = {name: _plain(value) for name, value in vars(config).items()}
    words = np.asarray(jax.random.key_data(keys)).tolist()
    settings = {"ppo": numbers, "key": {"generator": generator_of(keys), "words": words}}
    if config.anneal_learning_rate or any(is_schedule(x) for x in vars(config).values()):
        settings["schedule_steps"] = schedule_steps
    return settings


def _plain(value: Any) -> Any:
    """A setting as YAML holds it; a function by its name."""
    if isinstance(value, Schedule):
        return {name: np.asarray(x).tolist() for name, x in vars(value).items()}
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return np.asarray(value).tolist()


def _saved_horizon(output: str | os.PathLike, goes_on: bool) -> int | None:
    """The horizon of the schedules of a run that goes on."""
    found = load_settings(Path(output)).get("schedule_steps") if goes_on else None
    return found if isinstance(found, int) else None


def _settings_of(algorithm: Algorithm, keys: Key[Array, "*R"]) -> dict[str, Any]:
    """The name of another algorithm, and those of its attributes that are plain."""
    attributes = getattr(algorithm, "__dict__", {})
    plain = {k: v for k, v in attributes.items() if isinstance(v, bool | int | float | str)}
    words = np.asarray(jax.random.key_data(keys)).tolist()
    name = f"{type(algorithm).__module__}.{type(algorithm).__qualname__}"
    return {
        "algorithm": {"class_path": name, "init_args": plain},
        "key": {"generator": generator_of(keys), "words": words},
    }


def _check_resumed(directory: Path, now: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Refuse a run that goes on with settings other than those in its checkpoint."""
    saved = entry(checkpoint.file, checkpoint.header, "config", dict)
    check_unchanged(directory, saved, json.loads(json.dumps(now)), LONGER)
