"""Policies in files: `save_policy` and `load_policy`."""

import io
import os
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._core.files import as_written, encode, entry, read, write_whole
from .._core.tree import is_shape, map_arrays
from .._core.types import Policy, PyTree
from ..nn._trainable import partition_trainable
from ..ppo._runs_axis import over_runs
from ..random._keys import key as make_key
from ._build import build_env, members, policy_factory
from ._checkpoint import (
    FORMAT as CHECKPOINT,
    FORMAT_VERSION as CHECKPOINT_VERSION,
    Leaf,
    checkpoint_files,
    checkpoint_of,
    describe,
    find_part,
    restore,
)
from ._component import require_allowed
from ._config import Config, check, from_dict, is_config, prefixed, to_dict

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

    The file is one line of JSON, then the leaves as `eqx.tree_serialise_leaves` writes them; the
    line names them. It appears as a whole or not at all: what was there stays until the new one is
    on the disk.

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
    header = {
        "config": None if config is None else to_dict(config),
        "leaves": [leaf.as_dict() for leaf in _leaves(policy)],
    }
    return encode(FORMAT, FORMAT_VERSION, header, leaves.getvalue())


def load_policy(
    path: str | os.PathLike,
    *,
    run: int | None = None,
    inference: bool = True,
    like: Policy | None = None,
    allow: Sequence[str] = (),
) -> Policy:
    """Read a policy.

    Reading executes nothing: only rlscan's own classes are built, unless `allow` names others.

    **Arguments:**

    - `path`: a run directory: that of a finished run gives its last policy, that of a run which was
        stopped, or is going on, the one in its last checkpoint. Or a file: of `save_policy`, or in
        the `checkpoints` of a run directory.
    - `run`: the index of the run, if several were trained side by side (`run` in the metrics).
    - `inference`: whether to switch dropout off, as for a policy in use; `False` returns it as it
        was trained.
    - `like`: a policy of the same class and shapes, for a class that rlscan does not build from a
        config. Its arrays are replaced.
    - `allow`: modules that you trust, such as `["my_module"]`. A class of theirs that the config of
        a run names is imported and built; the working directory can be imported from then.

    **Returns:** the policy.

    **Raises:** `FileNotFoundError` if there is none; `ValueError` if the file is not a policy of
    rlscan, is damaged or of a later version, holds parameters that are NaN, or needs `like`.
    """
    file = file_of(Path(path))
    try:
        header, body = read(file, {FORMAT: FORMAT_VERSION, CHECKPOINT: CHECKPOINT_VERSION})
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no policy at {file}; give the directory of a run, which holds {POLICY_FILE}"
        ) from None
    config = None if like is not None else _config_in(file, header, allow)
    num_runs = 1 if config is None else len(members(config))
    if (num_runs > 1 or run is not None) and run not in range(num_runs):
        holds = f"holds {num_runs} runs" if num_runs > 1 else "holds one run"
        raise ValueError(f"{file} {holds}; run must be from 0 to {num_runs - 1}, got {run}")
    if config is not None:
        require_allowed(config.policy.component, key=f"{file}: policy", allow=allow)
        require_allowed(config.env.component, key=f"{file}: env", allow=allow)
    with as_written(file):  # a config may name an environment that does not take its parameters
        skeleton: Any = like if config is None else _skeleton(config)
    if header["format"] == CHECKPOINT:
        checkpoint = checkpoint_of(file, header, body)
        is_ppo = config is not None and config.algorithm is None
        within = ".policy" if is_ppo else find_part(checkpoint, skeleton)
        policy = restore(checkpoint, skeleton, within=within)
    else:
        policy = _deserialised(file, header, body, skeleton)
    if num_runs > 1:
        policy = map_arrays(lambda x: x[run], policy)
    _require_numbers(file, policy)
    return eqx.nn.inference_mode(policy) if inference else policy


def _config_in(file: Path, header: Mapping[str, Any], allow: Sequence[str] = ()) -> Config:
    """The config from which a policy is built; `ValueError` if it is another loop's, or invalid."""
    tree = entry(file, header, "config", dict | None)
    if not is_config(tree):
        raise ValueError(
            f"{file} holds a policy that no config of rlscan builds; pass like=, a policy of the "
            "same class, such as the one that training started from"
        )
    with as_written(file):
        config = from_dict(tree, allow=allow)
        with prefixed("config."):
            check(config)
    return config


def _deserialised(file: Path, header: Mapping[str, Any], body: bytes, like: PyTree) -> Any:
    """The leaves of a policy file in the place of those of `like`."""
    wanted = _leaves(like)
    named = entry(file, header, "leaves", list[Leaf] | None) or wanted  # early ones lack it
    for is_, to_be in zip_longest(named, wanted):
        if is_ != to_be:
            raise ValueError(
                f"{file} does not fit its policy: {_named(to_be)} must come next, got "
                f"{_named(is_)}; it was saved by rlscan {header.get('rlscan_version')}"
            )
    stream = io.BytesIO(body)
    try:
        policy = eqx.tree_deserialise_leaves(stream, like)
    except Exception as error:  # NumPy raises many kinds when it reads what it did not write
        what = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"{file} does not fit its policy: {what}") from None
    if left := len(body) - stream.tell():
        raise ValueError(f"{file} does not fit its policy: {left} bytes follow its last array")
    return policy


def _named(leaf: Leaf | None) -> str:
    return "no array" if leaf is None else f"{leaf.name} {leaf}"


def _leaves(policy: PyTree) -> list[Leaf]:
    """Describe what `eqx.tree_serialise_leaves` writes of a policy, in its order."""
    return [
        describe(jax.tree_util.keystr(path), x if is_shape(x) else np.asarray(x))
        for path, x in jax.tree_util.tree_leaves_with_path(policy)
        if is_shape(x) or eqx.is_array_like(x)
    ]


def _require_numbers(file: Path, policy: PyTree) -> None:
    """Raise `ValueError` for parameters that are NaN: the actions would be, too."""
    parameters, _ = partition_trainable(policy)
    for path, x in jax.tree_util.tree_leaves_with_path(parameters):
        if eqx.is_inexact_array(x) and (bad := int(np.isnan(np.asarray(x)).sum())):
            raise ValueError(
                f"{file} holds a policy with parameters that are NaN: {bad:,} of {x.size:,} in "
                f"{jax.tree_util.keystr(path)}; use a checkpoint from before"
            )


def file_of(path: Path, *, wants_state: bool = False) -> Path:
    """The file of the last policy of a run directory, or the file itself.

    **Arguments:**

    - `path`: a run directory or a file.
    - `wants_state`: whether it must be a checkpoint, which holds the whole training state.
    """
    # By `os.path`, because a Path raises for a name that is too long.
    if not os.path.isdir(path):
        return path
    if os.path.exists(path / POLICY_FILE) and not wants_state:
        return path / POLICY_FILE
    return next(iter(checkpoint_files(path)), path / POLICY_FILE)


def _skeleton(config: Config) -> Any:
    """The policy that a config describes, with shapes for arrays; `[R, …]` for several runs."""
    env, num_runs = build_env(config), len(members(config))
    axis = () if num_runs == 1 else (num_runs,)
    build = lambda policy, seed: policy(key=make_key(seed))  # noqa: E731
    seeds, factory = jnp.zeros(axis, jnp.int32), policy_factory(config, env)
    return eqx.filter_eval_shape(over_runs(build, axis), factory, seeds)
