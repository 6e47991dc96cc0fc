"""Find the checkpoint from which a stopped run resumes, and bring its directory back to it."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._core.tree import flatten_keys
from ._checkpoint import (
    BEST,
    DIRECTORY,
    Checkpoint,
    checkpoint_files,
    keep_as_own,
    mark_best,
    read_checkpoint,
    update_of,
)
from ._counts import Counts
from ._directory import CONFIG_FILE
from ._metrics_files import METRICS_FILES
from ._policy_file import POLICY_FILE

# Options allowed with --resume, because they change none of the run's numbers.
ALLOWED = ("checkpoint_interval", "keep_checkpoints", "compile_cache")
LONGER = ("total_steps", "schedule_steps")  # allowed too: they extend a run


def locate(path: str) -> tuple[Path, Path | None]:
    """Find `(run directory, checkpoint or None)`; `ValueError` if `path` names neither."""
    given, is_directory = Path(path), os.path.isdir(path)
    directory = given if is_directory else given.parent.parent
    # By `os.path`, because a Path raises for a name that is too long.
    if not os.path.exists(path) or not os.path.isfile(directory / CONFIG_FILE):
        raise ValueError(
            f"no run at {path}; --resume takes the directory of a run, which holds its "
            f"{CONFIG_FILE}, or a checkpoint in its {DIRECTORY}"
        )
    return directory, None if is_directory else given


def find_checkpoint(path: Path) -> Checkpoint | None:
    """Read the checkpoint to resume from; `None` if the run was stopped before its first one.

    **Arguments:**

    - `path`: a run directory, or a checkpoint in one.

    **Raises:** `ValueError` if the checkpoint is damaged, is not one of rlscan's or comes from a
    later version, with the name of the last good one; or if the run was made without checkpoints.
    """
    directory, file = (path, None) if path.is_dir() else (path.parent.parent, path)
    files = checkpoint_files(directory)
    file = file or next(iter(files), None)
    if file is None:
        if (directory / POLICY_FILE).exists():
            raise ValueError(
                f"{directory} has no checkpoint to resume from, only a policy: it was written by "
                "an rlscan without checkpoints; train again in another --output"
            )
        return None
    try:
        return read_checkpoint(file)
    except (ValueError, OSError) as error:
        others = [*(f for f in files if f != file), file.with_name(BEST)]
        good = next(filter(_is_good, others), None)
        hint = f"the last good one is {good}: --resume {good}"
        if good is None:
            hint = "no other one is good; train again in another --output"
        raise ValueError(f"{error}; {hint}") from None


def _is_good(file: Path) -> bool:
    with contextlib.suppress(ValueError, OSError):
        return bool(read_checkpoint(file))
    return False


def check_unchanged(
    directory: Path,
    saved: Mapping[str, Any],
    now: Mapping[str, Any],
    may_change: Sequence[str] = (),
) -> None:
    """Raise `ValueError` if the settings of a run differ from those in its checkpoint."""
    before, after = flatten_keys(saved), flatten_keys(now)
    for key in before.keys() | after.keys():
        if before.get(key) != after.get(key) and key not in may_change:
            raise ValueError(
                f"{directory / CONFIG_FILE} was changed since the run began: {key} was "
                f"{before.get(key)!r} and is {after.get(key)!r}; put it back, or train again in "
                "another --output"
            )


def bring_back(directory: Path, counts: Counts, file: Path | None) -> None:
    """Restore the checkpoints of a run directory to the point where the run resumes.

    **Arguments:**

    - `directory`: the run directory.
    - `counts`: the counts in the checkpoint.
    - `file`: the checkpoint; `None` if the run starts again from the beginning.
    """
    done = counts.num_updates
    (directory / DIRECTORY).mkdir(exist_ok=True)
    if file is not None:  # the best one may no longer have a file by its update
        keep_as_own(file, directory, done)
    for later in checkpoint_files(directory):
        if update_of(later) > done:
            later.rename(later.with_name(f"{later.name}.aside"))
    if done == 0:
        for name in METRICS_FILES:
            (directory / name).unlink(missing_ok=True)
    elif done == counts.best_update:  # the process may have been killed before marking it
        mark_best(directory, done)
