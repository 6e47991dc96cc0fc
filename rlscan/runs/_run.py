"""`Run`: a run directory around any iterator of `(state, metrics)`."""

import dataclasses
import json
import operator
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import yaml

from .._core.files import as_written, entry, write_whole
from .._core.require import require_positive
from .._core.scan import check_same_carry
from .._core.screen import message_of
from .._core.tree import is_shape
from .._core.types import Policy, PyTree
from ..random._keys import impl_of
from ._callbacks import Callback, Callbacks, Stop
from ._card import Card, write_card
from ._checkpoint import Checkpoint, checkpoint_content, keep_checkpoint, restore
from ._config import Config
from ._counts import Counts, check_counts, new_counts, no_episodes
from ._directory import CONFIG_FILE, claim, holds_run, locked, reserved
from ._evaluations import EvaluationsFile
from ._info import changed_versions, write_info
from ._log import Labels, Log
from ._loggers import Logger
from ._metrics_files import check_metrics
from ._policy_file import POLICY_FILE, policy_content, save_policy
from ._resume import bring_back, check_unchanged, find_checkpoint

State = TypeVar("State")
Metrics = TypeVar("Metrics", bound=Mapping[str, Any])

LAST = "last.ckpt"  # the reserved space for the last checkpoint
_MARGIN = 4096  # bytes by which the numbers in the first line of a checkpoint may grow


class Reached(NamedTuple):
    """How far a run is: the two halves of a checkpoint, which belong together."""

    state: Any
    counts: Counts
    callbacks: list[Any]  # what the callbacks remember


class Run(Generic[State]):
    """A run directory around a training loop: metrics, progress, loggers, checkpoints, resume.

    The loop is any iterator of `(state, metrics)`, such as `rlscan.train` or a generator of your
    own. Started again, a script goes on from its last checkpoint, bit for bit:

    ```python
    with rlscan.runs.Run("runs/mine", first_state, num_updates=200, steps_per_update=8000) as run:
        for state, metrics in run.record(my_updates(run.state)):
            ...
    ```

    The directory holds `metrics.csv` and `metrics.jsonl`, `run.json` (versions, commit, command,
    devices), `checkpoints`, `README.md` (a model card, written at the end, unless there is one of
    your own), and `config.yaml` and `evaluations.csv` if there are any.

    A state that tells how many updates it has made, in `state.num_updates`, may be ahead of the
    metrics that come with it, as `rlscan.train` hands it over. It is saved when the two meet. Any
    other state must be the one after the update whose metrics come with it.
    """

    state: State
    """The state to go on from: that of the last checkpoint, or the first one."""

    def __init__(
        self,
        directory: str | os.PathLike,
        state: State,
        *,
        num_updates: int,
        steps_per_update: int = 1,
        config: Mapping[str, Any] | None = None,
        labels: Labels = ({},),
        log_interval: int = 1,
        loggers: Iterable[Logger] = (),
        checkpoint_interval: float = 30.0,
        keep_checkpoints: int = 2,
        resume: bool | str | os.PathLike = True,
        callbacks: Sequence[Callback] = (),
        policy: Callable[[State], Policy] | None = None,
        title: str | None = None,
        setup: "Setup | None" = None,
    ):
        """
        **Arguments:**

        - `directory`: the run directory; made if needed.
        - `state`: the state that training starts from, any pytree. Its arrays are saved. If the run
            goes on they are replaced, so their shapes are enough.
        - `num_updates`: updates of the whole run.
        - `steps_per_update`: environment steps of an update, for the columns `step` and
            `steps_per_second`.
        - `config`: settings to keep in `config.yaml`, of plain dicts, lists, strings and numbers. A
            run goes on only with the same ones.
        - `labels`: for several runs side by side the first columns of each run's rows, such as
            `{"run": 0, "seed": 3}`. Metrics are then arrays `[R]`.
        - `log_interval`: updates per row of the metrics.
        - `loggers`: see `rlscan.runs.Logger`. One that fails is dropped with a warning.
        - `checkpoint_interval`: seconds between checkpoints; the last state is saved in any case.
        - `keep_checkpoints`: how many checkpoints to keep, beside the one with the best return.
        - `resume`: whether to go on if the directory holds a run already; or the run directory or
            checkpoint to go on from. `False` refuses a directory that holds a run.
        - `callbacks`: see `rlscan.runs.Callback`. For one that changes the state, the iterator
            needs an attribute `state` that can be set, as `rlscan.train` has it.
        - `policy`: takes the policy out of a state. It is saved when the run has finished, for
            `rlscan.load_policy(directory, like=…)`.
        - `title`: the name of the run on the screen; by default that of the directory.
        - `setup`: for the command `rlscan train`.

        **Raises:** when the context is entered, `ValueError` if the directory cannot be written,
        holds a run that must not go on, or belongs to another process.
        """
        self.directory, self.state = Path(directory), state
        self.num_updates = require_positive("num_updates", num_updates)
        self._config = None if config is None else json.loads(json.dumps(config))
        self._steps_per_update, self._labels = steps_per_update, labels
        self._log_interval = require_positive("log_interval", log_interval)
        self._keep = require_positive("keep_checkpoints", keep_checkpoints)
        self._checkpoint_interval, self._loggers = checkpoint_interval, loggers
        self._resume, self._policy = resume, policy
        self._callbacks = Callbacks(callbacks)
        self._title = title or self.directory.name
        self._setup = setup or Setup()
        self._has_failed = False

    @property
    def num_updates_done(self) -> int:
        """The number of updates made so far, those of earlier sessions included."""
        return self._log.num_taken

    def __enter__(self) -> "Run[State]":
        is_path = isinstance(self._resume, str | os.PathLike)
        goes_on = is_path or (self._resume and holds_run(self.directory))
        with ExitStack() as stack:
            if goes_on:
                self._go_on(Path(self._resume) if is_path else self.directory, stack)  # pyright: ignore
            else:
                self._begin(stack)
            self._log = Log(
                self.directory,
                self._reached.counts,
                num_updates=self.num_updates,
                steps_per_update=self._steps_per_update,
                labels=self._labels,
                log_interval=self._log_interval,
                loggers=self._loggers,
            )
            stack.callback(self._log.close)
            self._evaluations = EvaluationsFile(self.directory, self._log.num_taken)
            self._saved_update, self._saved_time = self._log.num_taken, time.monotonic()
            has_policy = self._policy is None or (self.directory / POLICY_FILE).exists()
            self._was_finished = self.is_finished and has_policy
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        with self._stack:
            if self._reached.counts.num_updates > self._saved_update:
                self._save(in_room=True)
            if kind is not None or self._was_finished:
                return
            if self._policy is not None and self.is_finished:
                room = self._rooms[POLICY_FILE.name]
                policy = self._policy(self._reached.state)
                save_policy(
                    self.directory / POLICY_FILE, policy, self._setup.policy_config, room=room
                )
            self._log.close()
            if self._reached.counts.num_updates > 0:
                self._log.summarize()
                self._write_card()

    def record(self, updates: Iterable[tuple[State, Metrics]]) -> Iterator[tuple[State, Metrics]]:
        """Hand over the updates of a loop, and keep what they bring.

        The time that the caller spends on an update does not count as training.

        **Arguments:**

        - `updates`: yields `(state, metrics)`; metrics are numbers, or arrays `[R]` for several
            runs. If there are `num_episodes`, `episode_return` and `episode_length` are averaged
            over the episodes of a row. It may be endless: the run takes `num_updates`.

        **Returns:** the same iterator. It ends after `num_updates`, or at a signal.

        **Raises:** `KeyboardInterrupt` if a signal came before the first update.
        """
        if self.is_finished:
            if self._was_finished:
                counts = self._reached.counts
                how = f"all {self.num_updates:,} updates"
                if counts.stopped is not None:
                    how = f"stopped after update {counts.num_updates:,}, {counts.stopped}"
                self.say(f"{self.directory} has finished, {how}: nothing to resume")
            return
        self._introduce(updates)
        self._log.start()
        before = _updates_in(self.state) - self._log.num_taken  # made before this run
        iterator, first, last, num_made = iter(updates), None, None, 0
        # An iterator that knows it has ended is asked once more, since it may still raise.
        while not self.is_finished or operator.length_hint(iterator, 1) == 0:
            try:
                state, metrics = next(iterator)
            except StopIteration:
                return
            if state is not last:
                num_made = _updates_in(state) - before
                first = state if first is None else first
                _require_same_rest(first, state)
                last = state
            if (
                num_made > self._log.num_taken + 1
            ):  # the state after a later update of the same call
                self._log.take(metrics)
                with self._log.paused():
                    yield state, metrics
                continue
            state, metrics, stop = self._call_back(updates, state, metrics)
            last = state
            self._log.take(metrics)
            counts = self._log.write(is_last=stop is not None)
            if stop is not None:
                counts.stopped = stop.reason or "by a callback"
            self._reached = Reached(state, counts, self._callbacks.states())
            self._log.show()
            with self._log.paused():
                yield state, metrics
            self._save_if_due()
            if self._setup.signals or stop is not None:
                return

    def _call_back(
        self, updates: Any, state: State, metrics: Metrics
    ) -> tuple[State, Metrics, Stop | None]:
        """Call the callbacks after an update, and go on from the state that they return."""
        done = self._log.num_taken + 1
        changed, metrics, stop = self._callbacks.call(done, state, metrics)
        if changed is not state:
            check_same_carry(
                state, changed, name="state", where="in a callback", first="the one it was given"
            )
            if not hasattr(updates, "state"):
                raise TypeError(
                    "a callback has changed the state, but this loop cannot go on from another "
                    "one; give the iterator an attribute `state`, as rlscan.train has it"
                )
            updates.state = changed
        return changed, metrics, stop

    def _introduce(self, updates: Any) -> None:
        """Show what the run is, and compile what can be compiled beforehand."""
        is_training, mesh = hasattr(updates, "compile"), getattr(updates, "mesh", None)
        num_devices = 1 if mesh is None else mesh.size
        self._log.introduce(self._title, num_devices=num_devices, is_compiling=is_training)
        if changed := changed_versions(self.directory):
            what = ", ".join(changed)
            self.say(f"warning: {what} since the run was stopped: rounding may differ")
        if is_training:
            self._log.compiled(updates.compile())
        if self._setup.signals:
            raise KeyboardInterrupt

    def add_evaluation(self, figures: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Append a row to `evaluations.csv`, and pass it on to the loggers as `evaluation/…`.

        **Arguments:**

        - `figures`: numbers by name, such as those of `rlscan.runs.summarize`; of several runs one
            for each.

        **Raises:** `OSError` if the disk is full.
        """
        each = [figures] if isinstance(figures, Mapping) else figures
        done = self.num_updates_done
        place = {"update": done, "step": done * self._steps_per_update}
        rows = [{**label, **place, **one} for label, one in zip(self._labels, each, strict=True)]
        self._evaluations.append(rows)
        self._log.log_evaluation(rows)

    def say(self, text: str) -> None:
        """Print a line, above the progress bar if there is one."""
        self._log.say(text)

    @property
    def is_finished(self) -> bool:
        """Whether all updates are made, or a callback has stopped the run."""
        counts = self._reached.counts
        return counts.num_updates >= self.num_updates or counts.stopped is not None

    def _begin(self, stack: ExitStack) -> None:
        self._reached = Reached(self.state, new_counts(len(self._labels)), self._callbacks.states())
        text = None if self._config is None else yaml.safe_dump(self._config, sort_keys=False)
        self._rooms = stack.enter_context(claim(self.directory, text, self._sizes()))
        write_info(self.directory, self._setup.command, 0, self._setup.about)

    def _go_on(self, path: Path, stack: ExitStack) -> None:
        try:
            stack.enter_context(locked(self.directory))
        except BlockingIOError:
            raise ValueError(
                f"the run in {self.directory} is under way in another process; stop that one first"
            ) from None
        checkpoint, counts, file = find_checkpoint(path), new_counts(len(self._labels)), None
        if checkpoint is not None:
            file, header = checkpoint.file, checkpoint.header
            if self._setup.check is not None:
                self._setup.check(checkpoint)
            else:
                saved = entry(file, header, "config", dict | None)
                check_unchanged(self.directory, saved or {}, self._config or {})
            counts = entry(file, header, "counts", Counts)
            with as_written(file):
                check_counts(counts, len(self._labels))
            if counts.num_updates > self.num_updates:
                raise ValueError(
                    f"{self._setup.total} is {self.num_updates} updates, but the run has made "
                    f"{counts.num_updates}; use more"
                )
            if header.get("total_updates", self.num_updates) != self.num_updates:
                counts.last_tenth = no_episodes(len(counts.row))  # it is a different one now
                counts.stopped = None
            check_metrics(self.directory, counts.ends)
            self.state = restore(checkpoint, self.state)
            self._callbacks.restore(entry(file, header, "callbacks", list[Any] | None) or ())
        self._reached = Reached(self.state, counts, self._callbacks.states())
        try:
            bring_back(self.directory, counts, file)
            self._rooms = stack.enter_context(reserved(self.directory, self._sizes()))
            self._write_again()
        except OSError as error:
            raise ValueError(f"{self.directory} cannot be written: {error.strerror}") from None

    def _write_again(self) -> None:
        """Write the files of a run directory that change when the run goes on."""
        file = self.directory / CONFIG_FILE
        if self._config is not None:
            text = yaml.safe_dump(self._config, sort_keys=False)
            if not file.exists() or text != file.read_text(encoding="utf-8"):
                write_whole(file, text.encode())
        if not self.is_finished:
            (self.directory / POLICY_FILE).unlink(missing_ok=True)  # it was finished, and goes on
            done = self._reached.counts.num_updates
            write_info(self.directory, self._setup.command, done, self._setup.about)

    def _write_card(self) -> None:
        """Write the model card. Nothing depends on it, so what cannot be written is only said."""
        card = Card(
            title=self._title,
            num_updates=(self.num_updates_done, self.num_updates),
            steps_per_update=self._steps_per_update,
            config=self._config or {},
            labels=self._labels,
            policy_config=self._setup.policy_config,
            has_policy=self._policy is not None,
            is_finished=self.is_finished,
            seconds=self._reached.counts.seconds,
        )
        try:
            write_card(self.directory, card)
        except (OSError, ValueError) as error:
            self.say(f"warning: no model card: {message_of(error)}")

    def _sizes(self) -> dict[str, int]:
        """The space that saving needs at the end, in bytes by name."""
        start = _zeros(self.state)
        start_of = self._reached._replace(state=start)
        sizes = {LAST: len(self._content(start_of)) + _MARGIN}
        if self._policy is not None:
            content = policy_content(self._policy(start), self._setup.policy_config)
            sizes[POLICY_FILE.name] = len(content)
        return sizes

    def _content(self, reached: Reached) -> bytes:
        counts = dataclasses.asdict(reached.counts)
        header = {
            "counts": counts,
            "total_updates": self.num_updates,
            "callbacks": reached.callbacks,
        }
        return checkpoint_content(reached.state, self._config, header)

    def _save_if_due(self) -> None:
        """Save a checkpoint. It may fail: a disk that is full now may have space later."""
        if time.monotonic() - self._saved_time < self._checkpoint_interval:
            return
        try:
            self._save()
        except OSError as error:
            if not self._has_failed:  # once is enough
                reason = f"{error.filename}: {error.strerror}"
                self.say(f"warning: no checkpoint, cannot write {reason}; going on")
            self._has_failed, self._saved_time = True, time.monotonic()

    def _save(self, *, in_room: bool = False) -> None:
        counts = self._reached.counts.at_checkpoint()
        self._log.sync()  # the rows that the checkpoint counts must be there first
        keep_checkpoint(
            self.directory,
            self._content(self._reached._replace(counts=counts)),
            num_updates=counts.num_updates,
            best_update=counts.best_update,
            keep=self._keep,
            room=self._rooms[LAST] if in_room else None,
        )
        self._log.counts = counts
        self._reached = self._reached._replace(counts=counts)
        self._saved_update, self._saved_time = counts.num_updates, time.monotonic()
        self._has_failed = False


@dataclasses.dataclass(frozen=True)
class Setup:
    """What the command `rlscan train` adds to a `Run`."""

    command: Sequence[str] = dataclasses.field(default_factory=lambda: tuple(sys.argv))
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further entries of `run.json`."""
    policy_config: Config | None = None
    """The config from which `load_policy` builds the policy again."""
    check: Callable[[Checkpoint], None] | None = None
    """Raises `ValueError` if the run must not go on from a checkpoint."""
    total: str = "num_updates"
    """The setting that gave the length of the run, for errors."""
    signals: Sequence[int] = ()
    """A list in which signals are noted that ask the run to stop."""


def _updates_in(state: Any) -> int:
    """The number of updates that a state says it has made; 0 if it says nothing."""
    made = getattr(state, "num_updates", None)
    is_number = eqx.is_array_like(made) and not isinstance(made, jax.ShapeDtypeStruct)
    return int(np.max(np.asarray(made))) if is_number else 0


def _require_same_rest(first: PyTree, state: PyTree) -> None:
    """Refuse a state in which something else than arrays has changed: it would not be saved."""
    like = jax.tree.map(lambda x: 0 if is_shape(x) else x, first)
    now = jax.tree.map(lambda x: 0 if eqx.is_array(x) else x, state)
    try:
        check_same_carry(like, now)
    except TypeError as error:
        what = str(error).replace("carry", "state").replace(" inside filter_scan", "")
        raise TypeError(f"{what}; a run saves and restores arrays alone") from None


def _zeros(state: PyTree) -> PyTree:
    """Zeros for an array that only its shape stands for."""

    def one(x: Any) -> Any:
        if not isinstance(x, jax.ShapeDtypeStruct):
            return x
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            words = jax.eval_shape(jax.random.key_data, x)
            return jax.random.wrap_key_data(jnp.zeros(words.shape, words.dtype), impl=impl_of(x))
        return jnp.zeros(x.shape, x.dtype)

    return jax.tree.map(one, state)
