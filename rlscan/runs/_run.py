"""`run`: a training run, from a config to a run directory."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from .._core.compile_cache import use_compile_cache
from .._core.cpu import configure_cpu, num_cores, splitting_pays
from .._core.mesh import worthwhile
from .._core.tree import map_arrays
from .._core.types import Environment
from .._rollout.audit import LEAST_TOLERANCE, AuditError
from ..ppo._divergence import check_divergence
from ..ppo._finite import DivergenceError
from ..ppo._metrics import until_diverged
from ..ppo._pace import Paced
from ..ppo._train import check_audit, count_updates
from ..ppo._update import TrainState
from ._build import members
from ._checkpoint import checkpoint_content, save_checkpoint
from ._config import Config
from ._directory import changed_versions
from ._evaluations import Evaluations
from ._log import Log
from ._policy_config import is_recurrent_kind, width_of
from ._policy_file import POLICY_FILE, save_policy
from ._prepare import LAST, Prepared, Reached
from ._programs import MOST_UPDATES, mesh_of, numbers_of
from ._sweep import with_numbers


def on_this_machine(config: Config) -> Config:
    """The config with `num_devices` set, and JAX told of them: of a CPU each core may be one. It is
    also told where to keep what it compiles.

    Where it is set already, the run is the same on any machine. It is to come before JAX runs.
    """
    if config.compile_cache:
        use_compile_cache()
    num_devices = config.num_devices or _worthwhile(num_cores(), config)
    configure_cpu(num_devices, one_thread=not _splitting_pays(config))
    if config.num_devices is not None:
        return config
    return dataclasses.replace(config, num_devices=_worthwhile(len(jax.devices()), config))


def _worthwhile(num_devices: int, config: Config) -> int:
    """Over how many devices to split: the environments, or several runs, which exchange nothing."""
    num_runs = len(members(config))
    if num_runs > 1:
        return max(d for d in range(1, num_devices + 1) if num_runs % d == 0)
    return worthwhile(
        num_devices,
        num_envs=config.ppo.num_envs,
        num_steps=config.ppo.num_steps,
        num_minibatches=config.ppo.num_minibatches,
        recurrent=is_recurrent_kind(config.policy),
    )


def _splitting_pays(config: Config) -> bool:
    """On one device, where several runs side by side are as one with as many more environments."""
    num_steps = len(members(config)) * config.ppo.num_envs * config.ppo.num_steps
    return splitting_pays(num_steps // config.ppo.num_minibatches, width_of(config.policy))


def run(config: Config, prepared: Prepared, signals: Sequence[int] = ()) -> bool:
    """Trains, and writes metrics, checkpoints and the policy to the run directory.

    **Arguments:**

    - `config`, and what `prepare` made of it.
    - `signals`: those that asked the program to stop, looked at between updates: the first one
        ends the run after those under way, with a checkpoint.

    **Returns:** whether all updates were made.

    **Raises:** `AuditError` if `strict` and an update fails the audit; `DivergenceError` if a
    number is not finite, of several runs at the end, for the others go on; `OSError` if the disk is
    full; files are whole then, and there is a checkpoint. `KeyboardInterrupt` if the signal came
    before the first update.
    """
    num_updates = count_updates(config.total_steps, config.ppo)
    reached, directory = prepared.reached, prepared.directory
    with Log(config, directory, num_updates, reached.counts) as log:
        _stop_if(signals)
        if reached.counts.num_updates < num_updates:
            reached = _train(config, prepared, num_updates, log, signals)
        elif (directory / POLICY_FILE).exists():
            log.say(f"{directory} has finished, all {num_updates:,} updates: nothing to resume")
            return True
        finished = reached.counts.num_updates == num_updates
        if finished:
            room = prepared.rooms[POLICY_FILE.name]
            save_policy(directory / POLICY_FILE, reached.state.policy, config, room=room)
    log.summarize()
    _check_divergences(reached.state, prepared.env, config, num_updates, at_end=True)
    return finished


def _train(
    config: Config, prepared: Prepared, num_updates: int, log: Log, signals: Sequence[int]
) -> Reached:
    """Makes the updates that are left, or those until a signal comes; the last has a checkpoint."""
    env, reached = prepared.env, prepared.reached
    _check_divergences(reached.state, env, config, num_updates)  # already before it was stopped
    log.introduce()
    if changed := changed_versions(prepared.directory):
        log.say(f"warning: {', '.join(changed)} since the run was stopped: rounding may differ")
    make_updates = _compile(config, prepared, log)
    _stop_if(signals)
    saver, directory = _Saver(config, prepared, log), prepared.directory
    done = reached.counts.num_updates
    evaluations = Evaluations(config, env, directory, runs=log.labels(), num_updates_done=done)
    try:
        while reached.counts.num_updates < num_updates and not signals:
            before, done = reached.state, reached.counts.num_updates
            due = evaluations.next_due(done)
            state, metrics = make_updates(before, min(due, num_updates) - done)
            if len(members(config)) == 1:
                metrics = until_diverged(metrics)
            # In one step, which a second Ctrl-C cannot part.
            reached = Reached(state, log.write(metrics))
            log.show()
            if config.strict:
                _check_audits(before, metrics, env, config, num_updates)
            _check_divergences(state, env, config, num_updates)
            if reached.counts.num_updates == due:
                log.evaluated(evaluations.add(due, state.policy))
            reached = saver.save_if_due(reached)
    finally:
        saver.save_last(reached)
    return reached


def _check_audits(
    before: TrainState, metrics: Any, env: Environment, config: Config, num_updates: int
) -> None:
    """`check_audit` of each run; of several it names the one that fails."""
    runs, numbers = members(config), config.ppo.as_arrays()
    if len(runs) == 1:
        mesh = mesh_of(config)
        check_audit(before, metrics, env, numbers, num_updates=num_updates, mesh=mesh)
        return
    if (metrics["audit_error"] <= LEAST_TOLERANCE).all():
        return  # else each state would be cut out of all
    for i, run in enumerate(runs):
        state, own = map_arrays(lambda x: x[i], before), {n: x[i] for n, x in metrics.items()}  # noqa: B023
        own_numbers = with_numbers(numbers, run.swept)
        try:
            check_audit(state, own, env, own_numbers, num_updates=num_updates)
        except AuditError as error:
            raise AuditError(f"run {i}, of seed {run.seed}: {error}") from None


def _check_divergences(
    state: TrainState, env: Environment, config: Config, num_updates: int, *, at_end: bool = False
) -> None:
    """`check_divergence` of each run. Of several the others go on, so it is looked at when all have
    diverged, or at the end; the first is explained."""
    runs, settings = members(config), {"num_updates": num_updates, "debug": config.debug}
    if len(runs) == 1:
        check_divergence(state, env, config.ppo, mesh=mesh_of(config), **settings)
        return
    which = np.flatnonzero(np.asarray(state.divergence.update) > 0)
    if len(which) == 0 or (len(which) < len(runs) and not at_end):
        return
    first = int(which[0])
    own, numbers = map_arrays(lambda x: x[first], state), config.ppo.as_arrays()
    try:
        check_divergence(own, env, with_numbers(numbers, runs[first].swept), **settings)
    except DivergenceError as error:
        count = f"{len(which)} of {len(runs)} runs diverged"
        raise DivergenceError(
            f"{count}: run {first}, of seed {runs[first].seed}, {error}"
        ) from None


class _Saver:
    """Saves checkpoints of a run: when one is due, and at its end."""

    def __init__(self, config: Config, prepared: Prepared, log: Log):
        self._config, self._prepared, self._log = config, prepared, log
        self._saved_update = prepared.reached.counts.num_updates
        self._saved_time = time.monotonic()
        self._has_failed = False

    def save_if_due(self, reached: Reached) -> Reached:
        """A disk that is full now may have room later, so this one may fail."""
        if time.monotonic() - self._saved_time < self._config.checkpoint_interval:
            return reached
        try:
            return self._save(reached)
        except OSError as error:
            if not self._has_failed:  # once is enough
                self._log.say(f"warning: no checkpoint, cannot write {_reason(error)}; going on")
            self._has_failed, self._saved_time = True, time.monotonic()
            return reached

    def save_last(self, reached: Reached) -> None:
        """In the room that was reserved for it. `OSError` names the file."""
        if reached.counts.num_updates > self._saved_update:
            self._save(reached, in_room=True)

    def _save(self, reached: Reached, *, in_room: bool = False) -> Reached:
        """**Returns:** what was reached, from where the log begins to look for the best anew."""
        counts = reached.counts.at_checkpoint()
        self._log.sync()  # what the checkpoint says is in the metrics must be there first
        save_checkpoint(
            self._prepared.directory,
            checkpoint_content(reached.state, self._config, dataclasses.asdict(counts)),
            num_updates=counts.num_updates,
            best_update=counts.best_update,
            keep=self._config.keep_checkpoints,
            room=self._prepared.rooms[LAST] if in_room else None,
        )
        self._log.counts = counts
        self._saved_update, self._saved_time = counts.num_updates, time.monotonic()
        self._has_failed = False
        return Reached(reached.state, counts)


def _reason(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}"


def _stop_if(signals: Sequence[int]) -> None:
    if signals:
        raise KeyboardInterrupt


def _compile(config: Config, prepared: Prepared, log: Log) -> Paced[TrainState]:
    """The program that makes updates."""
    call = prepared.updates.compile()
    log.compiled(prepared.updates.seconds)
    numbers = numbers_of(config)
    return Paced(lambda state, times: call(state, times, *numbers), MOST_UPDATES)
