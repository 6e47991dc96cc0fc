"""`plan`: the programs of a sweep over settings that shape them, one run directory for each."""

from collections.abc import Sequence
from pathlib import Path

from .._core.files import write_whole
from ._axes import directory_of, split_sweep, variants
from ._config import Config, to_yaml
from ._directory import CONFIG_FILE, holds_run
from ._parse import Command, parse_command
from ._results import RESULTS_FILE, write_results
from ._train import labels_of


def plan(asked: Command, argv: Sequence[str]) -> list[Command]:
    """List the commands that a sweep consists of: `asked` itself, if one program is enough.

    **Arguments:**

    - `asked`: the command that `argv` gives.
    - `argv`: the command line.

    **Raises:** `ValueError` for a value that does not fit its key.
    """
    together, axes = split_sweep(asked.config.sweep, asked.config.policy, asked.config.env)
    if not axes:
        return [asked]
    directory, commands = Path(str(asked.config.output)), []
    for variant in variants(asked.config.sweep, asked.config.policy, asked.config.env):
        output = directory / directory_of(variant)
        overrides = {**variant, "sweep": together, "output": str(output)}
        if asked.resume is None:
            commands.append(parse_command(argv, overrides=overrides))
        elif holds_run(output):
            commands.append(_resumed(argv, output))
        else:
            again = ["--config", str(directory / CONFIG_FILE)]
            commands.append(parse_command(again, allow=asked.config.allow, overrides=overrides))
    return commands


def _resumed(argv: Sequence[str], output: Path) -> Command:
    return parse_command(argv, overrides={"resume": str(output)})


def begin_sweep(config: Config) -> None:
    """Write the config of the whole sweep, by which `--resume` finds its parts again."""
    directory = Path(str(config.output))
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / CONFIG_FILE, to_yaml(config).encode())


def finish_sweep(config: Config, commands: Sequence[Command]) -> Path:
    """Write the results of all parts of a sweep, and return the file."""
    directory = Path(str(config.output))
    each = variants(config.sweep, config.policy, config.env)
    parts = [
        (Path(str(one.config.output)), labels_of(one.config), variant)
        for one, variant in zip(commands, each, strict=True)
    ]
    write_results(directory, parts)
    return directory / RESULTS_FILE
