"""Resuming: which config and which checkpoint a stopped run goes on from."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ._checkpoint import BEST, DIRECTORY, Checkpoint, checkpoint_files, read_checkpoint
from ._config import Config, from_dict, to_dict
from ._directory import CONFIG_FILE
from ._parse import parse, underscored
from ._policy_file import POLICY_FILE

# What may be given beside --resume: it changes no number of the run.
ALLOWED = ("checkpoint_interval", "keep_checkpoints", "compile_cache")


_LONGER = "total_steps"  # where nothing is annealed over it


def config_to_resume(path: str, overrides: Sequence[str], *, prog: str) -> Config:
    """The config that a run goes on with: its own.

    **Arguments:**

    - `path`: what `--resume` names, a run directory or a checkpoint in one.
    - `overrides`: the rest of the command line.
    - `prog`: as for `parse`.

    **Raises:** `ValueError` if there is no run, or for an option that would make it another one.
    """
    directory, _ = locate(path)
    for argument in overrides:
        option = underscored(argument).split("=", 1)[0].removeprefix("--")
        if argument.startswith("--") and option not in (*ALLOWED, _LONGER, "help", "print_config"):
            allowed = ", ".join(f"--{key}" for key in (*ALLOWED, _LONGER))
            raise ValueError(
                f"--{option} cannot be given with --resume: a run goes on as it began; "
                f"what can be are {allowed}"
            )
    own = ["--config", str(directory / CONFIG_FILE), "--output", str(directory)]
    return parse([*own, *overrides], prog=prog)


def locate(path: str) -> tuple[Path, Path | None]:
    """`(run directory, checkpoint)`, the latter if `path` names one; `ValueError` if neither."""
    given = Path(path)
    directory = given if given.is_dir() else given.parent.parent
    if not given.exists() or not (directory / CONFIG_FILE).is_file():
        raise ValueError(
            f"no run at {path}; --resume takes the directory of a run, which holds its "
            f"{CONFIG_FILE}, or a checkpoint in its {DIRECTORY}"
        )
    return directory, None if given.is_dir() else given


def checkpoint_to_resume(path: str, config: Config) -> Checkpoint | None:
    """The checkpoint that a run goes on from; `None` if it has made none, and begins anew.

    **Arguments:**

    - `path`: as for `config_to_resume`.
    - `config`: from there.

    **Raises:** `ValueError` if it is damaged, foreign or of a later version, with the last that is
    not; if the config of the run was changed; or if the run was made without checkpoints.
    """
    directory, file = locate(path)
    files = checkpoint_files(directory)
    file = file or next(iter(files), None)
    if file is None:
        if (directory / POLICY_FILE).exists():
            raise ValueError(
                f"{directory} has no checkpoint to go on from, only a policy: of an rlscan that "
                "kept no checkpoints; train anew in another --output"
            )
        return None
    checkpoint = _read(file, [f for f in files if f != file])
    saved = from_dict(checkpoint.header["config"])
    _check_unchanged(directory, saved, config)
    _check_total_steps(saved, config)
    return checkpoint


def set_aside(directory: Path, num_updates: int) -> None:
    """Renames the checkpoints after `num_updates`, from which the run does not go on."""
    for file in checkpoint_files(directory):
        if int(file.stem.removeprefix("update-")) > num_updates:
            file.rename(file.with_name(f"{file.name}.aside"))


def _read(file: Path, others: Sequence[Path]) -> Checkpoint:
    try:
        return read_checkpoint(file)
    except (ValueError, OSError) as error:
        good = next(filter(_is_good, [*others, file.with_name(BEST)]), None)
        hint = f"the last good one is {good}: --resume {good}"
        if good is None:
            hint = "no other one is good; train anew in another --output"
        raise ValueError(f"{error}; {hint}") from None


def _is_good(file: Path) -> bool:
    with contextlib.suppress(ValueError, OSError):
        return bool(read_checkpoint(file))
    return False


def _check_unchanged(directory: Path, saved: Config, config: Config) -> None:
    before, now = _flat(to_dict(saved)), _flat(to_dict(config))
    for key in before.keys() | now.keys():
        if before.get(key) != now.get(key) and key not in (*ALLOWED, _LONGER):
            raise ValueError(
                f"{directory / CONFIG_FILE} was changed since the run began: {key} was "
                f"{before.get(key)!r} and is {now.get(key)!r}; put it back, or train anew in "
                "another --output"
            )


def _check_total_steps(saved: Config, config: Config) -> None:
    if config.total_steps == saved.total_steps:
        return
    annealed = {
        "the learning rate (ppo.anneal_learning_rate)": saved.ppo.anneal_learning_rate,
        "dropout (policy.dropout_end)": saved.policy.dropout_end is not None,
    }
    for what, is_annealed in annealed.items():
        if is_annealed:
            raise ValueError(
                f"total_steps cannot be changed in this run: {what} is annealed over it, so that "
                "the updates already made would have been others; train anew in another --output"
            )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by their dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        is_group = isinstance(value, dict) and value
        flat |= _flat(value, f"{prefix}{key}.") if is_group else {f"{prefix}{key}": value}
    return flat
