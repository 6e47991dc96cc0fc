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
from ..ppo._runs_axis import over_runs
from ..random._keys import key as make_key
from ._build import build_env, build_policy, members
from ._checkpoint import (
    FORMAT as CHECKPOINT,
    FORMAT_VERSION as CHECKPOINT_VERSION,
    Checkpoint,
    checkpoint_files,
    find_part,
    restore,
)
from ._config import Config, from_dict, is_config, to_dict

FORMAT = "rlscan policy"
FORMAT_VERSION = 3  # raised when older versions of rlscan can no longer read a file

POLICY_FILE = Path("checkpoints", "policy.eqx")  # in the directory of a finished run


def save_policy(
    path: str | os.PathLike,
    policy: Policy,
    config: Config | None = None,
    *,
    room: Path | None = None,
) -> None:
    """Write a policy to one file.

    The file is one line of JSON, then the leaves as `eqx.tree_serialise_leaves` writes them. It
    appears as a whole or not at all: what was there stays until the new one is on the disk.

    **Arguments:**

    - `path`: the file.
    - `policy`: any `eqx.Module`.
    - `config`: the config of the run that built the policy, from which `load_policy` builds it
        again. A policy of your own class has none; `load_policy` then takes `like=`.
    - `room`: space that was reserved on the disk for as many bytes as `policy_content` returns.

    **Raises:** `OSError`, which names the file.
    """
    write_whole(Path(path), policy_content(policy, config), room=room)


def policy_content(policy: Policy, config: Config | None) -> bytes:
    """Encode a policy. The length does not depend on the values of its arrays."""
    leaves = io.BytesIO()
    eqx.tree_serialise_leaves(leaves, policy)
    header = {"config": None if config is None else to_dict(config)}
    return encode(FORMAT, FORMAT_VERSION, header, leaves.getvalue())


def load_policy(
    path: str | os.PathLike,
    *,
    run: int | None = None,
    inference: bool = True,
    like: Policy | None = None,
) -> Policy:
    """Read a policy.

    **Arguments:**

    - `path`: a run directory: that of a finished run gives its last policy, that of a run which was
        stopped, or is going on, the one in its last checkpoint. Or a file: of `save_policy`, or in
        the `checkpoints` of a run directory.
    - `run`: the index of the run, if several were trained side by side (`run` in the metrics).
    - `inference`: whether to switch dropout off, as for a policy in use; `False` returns it as it
        was trained.
    - `like`: a policy of the same class and shapes, for a class that rlscan does not build from a
        config. Its arrays are replaced.

    **Returns:** the policy.

    **Raises:** `FileNotFoundError` if there is none; `ValueError` if the file is not a policy of
    rlscan, is damaged or of a later version, or needs `like`.
    """
    file = _file_of(Path(path))
    try:
        header, body = read(file, {FORMAT: FORMAT_VERSION, CHECKPOINT: CHECKPOINT_VERSION})
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no policy at {file}; give the directory of a run, which holds {POLICY_FILE}"
        ) from None
    is_own = like is not None or not is_config(header["config"])
    if is_own and like is None:
        raise ValueError(
            f"{file} holds a policy that no config of rlscan builds; pass like=, a policy of the "
            "same class, such as the one that training started from"
        )
    config = None if is_own else from_dict(header["config"])
    num_runs = 1 if config is None else len(members(config))
    if (num_runs > 1 or run is not None) and run not in range(num_runs):
        holds = f"holds {num_runs} runs" if num_runs > 1 else "holds one run"
        raise ValueError(f"{file} {holds}; run must be from 0 to {num_runs - 1}, got {run}")
    skeleton: Any = like if config is None else _skeleton(config)
    if header["format"] == CHECKPOINT:
        checkpoint = Checkpoint(file, header, body)
        within = find_part(checkpoint, skeleton) if config is None else ".policy"
        policy = restore(checkpoint, skeleton, within=within)
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
    """The policy that a config describes, with shapes for arrays; `[R, …]` for several runs."""
    env, num_runs = build_env(config.env), len(members(config))
    axis = () if num_runs == 1 else (num_runs,)
    build = lambda seed: build_policy(config, env, key=make_key(seed))  # noqa: E731
    return eqx.filter_eval_shape(over_runs(build, axis), jnp.zeros(axis, jnp.int32))
