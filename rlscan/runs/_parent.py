"""`start_from`: a new run from the trained policy of another."""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from .._core.tree import map_arrays
from .._core.types import PyTree
from ._checkpoint import read_checkpoint, restore
from ._config import Config
from ._policy_file import POLICY_FILE, file_of, load_policy


def start_from(config: Config, state: Any) -> Any:
    """Put the trained policy of another run into the first state of this one.

    The parent may have other settings, and another environment of the same spaces. Nothing that it
    names is built: its arrays take the places of those of the new policy.

    **Arguments:**

    - `config`: with `init_from`, a run directory or a file in one, and `init_parts`.
    - `state`: the first state of the new run. If it is of several runs, and the parent is one run,
        all of them start from it.

    **Raises:** `ValueError`, in one line, if there is no such file, if its arrays are not those of
    the new policy, or if it lacks a part that is asked for.
    """
    path, parts = Path(str(config.init_from)), config.init_parts
    several = state.num_updates.shape
    try:
        if "policy" in parts:
            policy = _fitting(lambda like: _policy(path, like), state.policy, several)
            state = dataclasses.replace(state, policy=policy)
        if "optimizer" in parts:
            load = lambda like: _part(path, ".opt_state", like)  # noqa: E731
            state = dataclasses.replace(state, opt_state=_fitting(load, state.opt_state, several))
        if "statistics" in parts:
            state = dataclasses.replace(state, reward_scaling=_scaling(path, state, several))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"init_from: {error}") from None
    return state


def _fitting(load: Any, like: PyTree, several: tuple[int, ...]) -> PyTree:
    """Load arrays like these; for several runs those of one run, or as many runs."""
    if not several:
        return load(like)
    try:
        return load(like)
    except ValueError:
        one = load(map_arrays(lambda x: x[0], like))
        return map_arrays(lambda x: jax.numpy.broadcast_to(x, (*several, *x.shape)), one)


def _policy(path: Path, like: Any) -> Any:
    return load_policy(path, like=like, inference=False)


def _scaling(path: Path, state: Any, several: tuple[int, ...]) -> Any:
    """The moments by which rewards are scaled; the returns of running episodes start again."""
    scaling = state.reward_scaling
    if scaling is None:
        raise ValueError("statistics are those of scale_rewards, which is off; leave them out")
    moments = _fitting(
        lambda like: _part(path, ".reward_scaling.moments", like), scaling.moments, several
    )
    return eqx.tree_at(lambda s: s.moments, scaling, moments)


def _part(path: Path, name: str, like: PyTree) -> PyTree:
    """A part of a training state, which checkpoints have and policy files lack."""
    file = file_of(path, wants_state=True)
    if file.suffix == POLICY_FILE.suffix:
        raise ValueError(f"{file} holds a policy alone, without {name[1:]}; give a checkpoint")
    return restore(read_checkpoint(file), like, within=name)


def describe_parent(config: Config) -> dict[str, Any]:
    """What `run.json` says about the parent of a run: its file, and the digest of its content."""
    if config.init_from is None:
        return {}
    file = file_of(Path(config.init_from))
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(
            f"init_from: cannot read {file}, {error.strerror}; give a run directory, or a policy "
            "or checkpoint file"
        ) from None
    entry = {"file": os.path.abspath(file), "sha256": digest, "parts": list(config.init_parts)}
    return {"parent": entry}
