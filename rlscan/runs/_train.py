"""`rlscan train`: a training run, from a config to a run directory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from .._core.files import as_written, entry
from .._core.mesh import make_mesh
from .._core.program import call_program
from ..ppo._algorithm import count_updates, steps_per_update
from ..ppo._training import Training
from ..ppo._update import TrainState
from ..random._keys import key as make_key
from ._attachments import build_callbacks, build_loggers
from ._build import (
    build_algorithm,
    build_env,
    build_settings,
    members,
    policy_factory,
    require_fit,
)
from ._callbacks import Callback
from ._checkpoint import Checkpoint
from ._component import name_of
from ._config import LOGGER_NAMES, Config, from_dict, to_dict
from ._directory import check_output
from ._evaluations import make_evaluator
from ._fit import exact_interval, follow, open_training, policy_in
from ._footprint import check_memory
from ._loggers import check_loggers
from ._own_env import in_own_env
from ._parent import describe_parent, start_from
from ._resume import ALLOWED, LONGER, check_unchanged
from ._run import Run, Setup
from ._stored import store_programs


@contextmanager
def open_run(
    config: Config,
    resume: str | None = None,
    *,
    command: Sequence[str] = (),
    signals: Sequence[int] = (),
    is_logged: bool = True,
) -> Iterator[tuple[Run[TrainState], Training]]:
    """Build what a run needs, then open its directory: nothing is written before all is checked.

    **Arguments:**

    - `config`: from `parse_command`, with `output` and `num_devices` set.
    - `resume`: the run directory or checkpoint to go on from, whose config `config` is; `None` for
        a new run.
    - `command`: the command line, for `run.json`.
    - `signals`: a list in which signals are noted that ask the run to stop.
    - `is_logged`: whether the loggers of the config get the metrics.

    **Returns:** a context, of the run and its updates, which are not compiled yet. If the run is
    new and has no results at the end of the context, its directory is removed again.

    **Raises:** `ValueError` or `TypeError` for a config that cannot be trained, an `output` that
    cannot be written or holds another run, or a run that cannot go on.
    """
    paths = [one.class_path for one in config.loggers]
    check_loggers([LOGGER_NAMES[path] for path in paths if path in LOGGER_NAMES])
    if resume is None:
        check_output(str(config.output))
    env, callbacks, algorithm = build_env(config), build_callbacks(config), build_algorithm(config)
    require_fit(config, env)
    if resume is None:
        check_memory(config)
    parent = describe_parent(config) if resume is None else {}
    setup = Setup(
        command=command,
        about={"seed": config.seed, "runs": labels_of(config), **parent},
        policy_config=config,
        check=partial(_check_resumed, config),
        total=f"total_steps = {config.total_steps}",
        signals=signals,
    )
    keys = _keys_of(config)

    def start(state: TrainState) -> TrainState:
        state = in_own_env(config, keys, state)
        return state if config.init_from is None else start_from(config, state)

    opened = open_training(
        partial(_run_of, config, algorithm, callbacks, resume or False, setup, is_logged),
        policy_factory(config, env),
        env,
        algorithm,
        keys,
        goes_on=resume is not None,
        start=start if config.algorithm is None else None,
        total_steps=config.total_steps,
        state_interval=exact_interval(config.eval_interval, callbacks),
        strict=config.strict,
        mesh=None if config.num_devices in (None, 1) else make_mesh(config.num_devices),
        **build_settings(config),
    )
    with store_programs(config, env), opened as run_and_training:
        yield run_and_training


def _run_of(
    config: Config,
    algorithm: Any,
    callbacks: Sequence[Callback],
    resume: bool | str,
    setup: Setup,
    is_logged: bool,
    *,
    state: TrainState,
) -> Run[TrainState]:
    tree, labels = to_dict(config), labels_of(config)
    return Run(
        str(config.output),
        state,
        num_updates=count_updates(config.total_steps, algorithm),
        steps_per_update=steps_per_update(algorithm),
        config=tree,
        labels=labels if len(labels) > 1 else ({},),
        log_interval=config.log_interval,
        loggers=build_loggers(config) if is_logged else (),
        callbacks=callbacks,
        checkpoint_interval=config.checkpoint_interval,
        keep_checkpoints=config.keep_checkpoints,
        resume=resume,
        policy=policy_in,
        title=_title(config),
        setup=setup,
    )


def _title(config: Config) -> str:
    """The environment, the policy and its rate of dropout, for the screen."""
    policy, rate = config.policy, config.policy.init_args.get("dropout")
    words = [config.env.title, name_of(policy.component)]
    if isinstance(rate, float | int):
        end = "" if policy.dropout_end is None else f" to {policy.dropout_end:g}"
        words.append(f"dropout {rate:g}{end}")
    return ", ".join(words)


def labels_of(config: Config) -> list[dict[str, Any]]:
    """The number, seed and swept settings of each run."""
    return [{"run": i, "seed": m.seed, **m.swept} for i, m in enumerate(members(config))]


def follow_config(
    config: Config, run: Run[TrainState], training: Training, signals: Sequence[int] = ()
) -> bool:
    """Train as a config says, see `follow`; at a signal, end after the updates under way.

    **Returns:** whether all updates were made.

    **Raises:** as `follow`, and `KeyboardInterrupt` if a signal came before the first update.
    """
    if signals:
        raise KeyboardInterrupt
    follow(
        run,
        training,
        eval_interval=config.eval_interval,
        evaluator=lambda: make_evaluator(
            training.env,
            [member.seed for member in members(config)],
            num_episodes=config.eval_episodes,
            generator=config.generator,
        ),
        debug=config.debug,
    )
    return run.is_finished


def _keys_of(config: Config) -> Key[Array, "*R"]:
    """The key of the run, or keys `[R]` of several."""
    make = partial(make_key, generator=config.generator)
    seeds = np.asarray([member.seed for member in members(config)], np.uint32)
    return call_program(jax.vmap(make), seeds) if len(seeds) > 1 else make(config.seed)


def _check_resumed(config: Config, checkpoint: Checkpoint) -> None:
    """Refuse a config that differs from the one in the checkpoint, except where it may."""
    with as_written(checkpoint.file):
        saved = from_dict(entry(checkpoint.file, checkpoint.header, "config", dict))
    directory = Path(str(config.output))
    check_unchanged(directory, to_dict(saved), to_dict(config), (*ALLOWED, *LONGER))
