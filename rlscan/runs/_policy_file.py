"""Policies in files: `save_policy` and `load_policy`."""

import io
import os
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from .._core.files import encode, read, write_whole
from .._core.tree import map_arrays
from .._core.types import Policy
from ..random._keys import key as make_key
from ._build import build_env, build_policy, members
from ._checkpoint import (
    FORMAT as CHECKPOINT,
    FORMAT_VERSION as CHECKPOINT_VERSION,
    Checkpoint,
    checkpoint_files,
    restore,
)
from ._config import Config, from_dict, to_dict

FORMAT = "rlscan policy"


FORMAT_VERSION = 3  # raised when a reader of this one could no longer read it


POLICY_FILE = Path("checkpoints", "policy.eqx")  # in a run directory, once the run has finished


def save_policy(
    path: str | os.PathLike, policy: Policy, config: Config, *, room: Path | None = None
) -> None:
    """Writes a policy, and the config that built it, to one file.

    The file is one line of JSON, then the leaves as `eqx.tree_serialise_leaves` writes them. It
    is there whole or not at all: what was there before stays until the new one is on the disk.

    **Arguments:**

    - `path`: the file.
    - `policy`: as `build_policy` makes it from `config`, trained or not.
    - `config`: of the run.
    - `room`: from `reserve`, if that was called before: as much as `policy_content` is long.

    **Raises:** `OSError`, which names the file.
    """
    write_whole(Path(path), policy_content(policy, config), room=room)


def policy_content(policy: Policy, config: Config) -> bytes:
    """What is in the file of a policy. As long for any that `config` describes."""
    leaves = io.BytesIO()
    eqx.tree_serialise_leaves(leaves, policy)
    return encode(FORMAT, FORMAT_VERSION, {"config": to_dict(config)}, leaves.getvalue())


def load_policy(
    path: str | os.PathLike, *, run: int | None = None, inference: bool = True
) -> Policy:
    """The policy of a run.

    **Arguments:**

    - `path`: a run directory: of a finished run the last policy, of one that goes on or was
        stopped that of its last checkpoint. Or a file in its `checkpoints`.
    - `run`: which one, where several were trained side by side, by the column `run` of the metrics.
    - `inference`: whether dropout is off, as when a policy is used; `False` gives it as it was
        trained.

    **Returns:** the policy.

    **Raises:** `FileNotFoundError` if there is none; `ValueError` if the file is no policy of
    rlscan, damaged, or of a later version.
    """
    file = _file_of(Path(path))
    try:
        header, body = read(file, {FORMAT: FORMAT_VERSION, CHECKPOINT: CHECKPOINT_VERSION})
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no policy at {file}; give the directory of a run, which holds {POLICY_FILE}"
        ) from None
    config = from_dict(header["config"])
    num_runs = len(members(config))
    if (num_runs > 1 or run is not None) and run not in range(num_runs):
        holds = f"holds {num_runs} runs" if num_runs > 1 else "holds one run"
        raise ValueError(f"{file} {holds}; run must be from 0 to {num_runs - 1}, got {run}")
    skeleton = _skeleton(config)
    if header["format"] == CHECKPOINT:
        policy = restore(Checkpoint(file, header, body), skeleton, within=".policy")
    else:
        policy = eqx.tree_deserialise_leaves(io.BytesIO(body), skeleton)
    if num_runs > 1:
        policy = map_arrays(lambda x: x[run], policy)
    return eqx.nn.inference_mode(policy) if inference else policy


def _file_of(path: Path) -> Path:
    if not path.is_dir() or (path / POLICY_FILE).exists():
        return path / POLICY_FILE if path.is_dir() else path
    return next(iter(checkpoint_files(path)), path / POLICY_FILE)


def _skeleton(config: Config) -> Any:
    """The policy that a config describes, or those of several runs, with shapes for arrays."""
    env, num_runs = build_env(config.env), len(members(config))
    build = lambda seed: build_policy(config, env, key=make_key(seed))  # noqa: E731
    if num_runs == 1:
        return eqx.filter_eval_shape(build, 0)
    return eqx.filter_eval_shape(eqx.filter_vmap(build), jnp.zeros(num_runs, jnp.int32))
