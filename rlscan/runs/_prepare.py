"""What a run starts from: built, checked, and with a directory that is this process's own."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from .._core.files import write_whole
from .._core.types import Environment
from ..ppo._train import count_updates
from ..ppo._update import TrainState
from ._build import build_env, members
from ._checkpoint import DIRECTORY, checkpoint_content, keep_as_own, mark_best, restore
from ._config import Config, to_yaml
from ._counts import Counts, counts_from_dict, new_counts, none_yet
from ._directory import (
    CONFIG_FILE,
    METRICS_FILES,
    check_metrics,
    check_output,
    claim,
    locked,
    reserved,
    write_info,
)
from ._footprint import check_memory
from ._loggers import check_loggers
from ._policy_file import POLICY_FILE, policy_content
from ._programs import Program, begin
from ._resume import checkpoint_to_resume, set_aside


class Reached(NamedTuple):
    """How far a run is: the two halves of a checkpoint, which belong together."""

    state: TrainState  # of several runs side by side every leaf is [runs, …]
    counts: Counts  # of the log


class Prepared(NamedTuple):
    """What a run starts from."""

    env: Environment
    reached: Reached
    updates: Program  # from `begin`
    directory: Path
    rooms: Mapping[str, Path]  # on the disk, for what is saved at the end


LAST = "last.ckpt"  # the name of the room for the last checkpoint


_MARGIN = 4096  # bytes that the numbers in the first line of a checkpoint may grow by


@contextmanager
def prepare(
    config: Config, resume: str | None = None, *, command: Sequence[str] = ()
) -> Iterator[Prepared]:
    """Builds what a run needs, then makes its directory: nothing is written before all is checked.

    **Arguments:**

    - `config`: as `parse` gives it, with `output` set.
    - `resume`: the run directory or the checkpoint from which a run goes on, `config` being from
        `config_to_resume`; a new run if not given.
    - `command`: the command line, for `run.json`.

    **Returns:** a context, in which no other process has the directory. At its end the directory of
    a new run is taken away if there are no results in it.

    **Raises:** `ValueError` or `TypeError` for a config that cannot be trained, an `output` that
    cannot be written or holds another run, or a run that cannot go on.
    """
    directory = Path(str(config.output))
    check_loggers(config.loggers)
    if resume is None:
        check_output(str(config.output))
        check_memory(config)
        env = build_env(config.env)
        state, updates = begin(config, env)
        reached = Reached(state, new_counts(len(members(config))))
        with claim(config, _sizes(config, reached)) as rooms:
            write_info(directory, config, command, 0)
            yield Prepared(env, reached, updates, directory, rooms)
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(directory))
        except BlockingIOError:
            raise ValueError(
                f"the run in {directory} is under way in another process; stop that one first"
            ) from None
        env, reached, updates, file = _resumed(config, resume)
        try:
            (directory / DIRECTORY).mkdir(exist_ok=True)
            rooms = stack.enter_context(reserved(directory, _sizes(config, reached)))
            _take_up(config, reached, file, directory, command)
        except OSError as error:
            raise ValueError(f"{directory} cannot be written: {error.strerror}") from None
        yield Prepared(env, reached, updates, directory, rooms)


def _resumed(config: Config, resume: str) -> tuple[Environment, Reached, Program, Path | None]:
    """What a run goes on from, and the checkpoint that holds it, if there is one."""
    checkpoint, env = checkpoint_to_resume(resume, config), build_env(config.env)
    if checkpoint is None:
        state, updates = begin(config, env)
        return env, Reached(state, new_counts(len(members(config)))), updates, None
    counts = counts_from_dict(checkpoint.header["counts"])
    num_updates = count_updates(config.total_steps, config.ppo)
    if counts.num_updates > num_updates:
        raise ValueError(
            f"total_steps = {config.total_steps} is {num_updates} updates, but the run has made "
            f"{counts.num_updates}; use more"
        )
    if config.total_steps != checkpoint.header["config"]["total_steps"]:
        counts.last_tenth = none_yet(len(counts.row))  # it is another one
    check_metrics(Path(str(config.output)), counts.ends)
    state, updates = begin(config, env)
    return env, Reached(restore(checkpoint, state), counts), updates, checkpoint.file


def _take_up(
    config: Config, reached: Reached, file: Path | None, directory: Path, command: Sequence[str]
) -> None:
    """Brings the run directory to where the checkpoint was written, but for the metrics."""
    done, best = reached.counts.num_updates, reached.counts.best_update
    if file is not None:  # it may be the best one, and those after it are set aside next
        keep_as_own(file, directory, done)
    set_aside(directory, done)
    if done == 0:  # it begins anew
        for name in METRICS_FILES:
            (directory / name).unlink(missing_ok=True)
    elif done == best:  # it may have been killed before that was marked
        mark_best(directory, done)
    if to_yaml(config) != (directory / CONFIG_FILE).read_text(encoding="utf-8"):
        write_whole(directory / CONFIG_FILE, to_yaml(config).encode())
    if done < count_updates(config.total_steps, config.ppo):
        (directory / POLICY_FILE).unlink(missing_ok=True)  # it was finished, and now goes on
        write_info(directory, config, command, done)


def _sizes(config: Config, reached: Reached) -> dict[str, int]:
    checkpoint = checkpoint_content(reached.state, config, dataclasses.asdict(reached.counts))
    policy = policy_content(reached.state.policy, config)
    return {LAST: len(checkpoint) + _MARGIN, POLICY_FILE.name: len(policy)}
