"""Checkpoints: the whole state of a run in one file, from which it goes on as if never stopped."""

import contextlib
import math
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._core.files import encode, read, write_whole
from .._core.tree import is_key
from .._core.types import PyTree
from ..random._keys import KeyData, generator_of, key_data, keys_from_data
from ._config import Config, to_dict

FORMAT = "rlscan checkpoint"


FORMAT_VERSION = 1  # raised when a reader of this one could no longer read it


DIRECTORY = "checkpoints"  # in a run directory


BEST = "best.ckpt"  # the one before which episodes returned most


_NAME = re.compile(r"update-(\d+)\.ckpt")


class Checkpoint(NamedTuple):
    """What is in a checkpoint file."""

    file: Path
    header: dict[str, Any]  # "config"; "counts", of the log; "leaves", of the state
    body: bytes  # the arrays of the state, one after the other


def checkpoint_content(state: PyTree, config: Config, counts: dict[str, Any]) -> bytes:
    """What is in the file of a checkpoint.

    One line of JSON names every array of the state, so that a later version can find it; then come
    their bytes, in C order and little-endian. Keys are written as the words they are made of, with
    the name of their generator.

    **Arguments:**

    - `state`: any pytree; what is no array in it follows from the config.
    - `config`: of the run.
    - `counts`: of the log, in plain numbers.
    """
    leaves = _named_arrays(state)
    arrays = [key_data(x).words if is_key(x) else np.asarray(x) for x in leaves.values()]
    header = {
        "config": to_dict(config),
        "counts": counts,
        "leaves": [_described(name, leaf) for name, leaf in leaves.items()],
    }
    return encode(FORMAT, FORMAT_VERSION, header, b"".join(_bytes(x) for x in arrays))


def read_checkpoint(file: Path) -> Checkpoint:
    """**Raises:** `ValueError`, which names the file, if it is foreign, damaged or of a later
    version."""
    return Checkpoint(file, *read(file, {FORMAT: FORMAT_VERSION}))


def restore(checkpoint: Checkpoint, like: PyTree, *, within: str = "") -> PyTree:
    """The state that was saved, on the devices where that of the run's start is.

    **Arguments:**

    - `checkpoint`: from `read_checkpoint`.
    - `like`: what the config describes: arrays of the same shapes, or the shapes alone.
    - `within`: the name of the part that is wanted, such as `".policy"`; all if not given.

    **Raises:** `ValueError` if the two differ in structure, naming the first array that does.
    """
    saved = _views(checkpoint)
    wanted = _named_arrays(like)
    loaded = []
    for name, leaf in wanted.items():
        described = _described(within + name, leaf)
        found = saved.pop(within + name, None)
        if found is None or found[0] != described:
            raise ValueError(
                f"{checkpoint.file} does not fit its config: {within + name} must be "
                f"{_in_words(described)}, got {_in_words(found and found[0])}; it was saved by "
                f"rlscan {checkpoint.header['rlscan_version']}"
            )
        loaded.append(_as_leaf(*found, leaf))
    if left := [name for name in saved if name.startswith(within)]:
        raise ValueError(f"{checkpoint.file} does not fit its config: it has {left[0]}, too")
    arrays, rest = eqx.partition(like, _is_arraylike)
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(arrays), loaded), rest)


def checkpoint_files(directory: Path) -> list[Path]:
    """The checkpoints of a run directory, newest first."""
    files = (directory / DIRECTORY).glob("update-*.ckpt")
    return sorted((f for f in files if _NAME.fullmatch(f.name)), key=_number, reverse=True)


def save_checkpoint(
    directory: Path,
    content: bytes,
    *,
    num_updates: int,
    best_update: int,
    keep: int,
    room: Path | None = None,
) -> None:
    """Writes a checkpoint; then the older ones go, but for the last `keep` and the best.

    **Raises:** `OSError`, which names the file; all older ones are there then.
    """
    write_whole(_file_at(directory, num_updates), content, room=room)
    if best_update == num_updates:
        mark_best(directory, num_updates)
    for old in checkpoint_files(directory)[keep:]:
        old.unlink(missing_ok=True)


def mark_best(directory: Path, num_updates: int) -> None:
    """Gives a checkpoint the name of the best as well; on the disk it is there once.

    Where that fails, the next who resumes from it does it.
    """
    file, best = _file_at(directory, num_updates), directory / DIRECTORY / BEST
    temporary = best.with_name(f".{BEST}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        try:
            os.link(file, temporary)
        except OSError:  # a file system without links
            write_whole(best, file.read_bytes())
        else:
            os.replace(temporary, best)
            temporary.unlink(missing_ok=True)  # there still if both names were of one file


def keep_as_own(file: Path, directory: Path, num_updates: int) -> None:
    """Gives a checkpoint that a run goes on from the name of its update, if none has that."""
    own = _file_at(directory, num_updates)
    if own.exists():
        return
    try:
        os.link(file, own)
    except OSError:  # a file system without links
        write_whole(own, file.read_bytes())


def _file_at(directory: Path, num_updates: int) -> Path:
    return directory / DIRECTORY / f"update-{num_updates:010}.ckpt"


def _number(file: Path) -> int:
    match = _NAME.fullmatch(file.name)
    return int(match[1]) if match else -1


def _is_arraylike(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _named_arrays(tree: PyTree) -> dict[str, Any]:
    arrays = eqx.filter(tree, _is_arraylike)
    return {
        jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(arrays)
    }


def _described(name: str, leaf: Any) -> dict[str, Any]:
    """Of an array: what a reader must know of its bytes."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        words = jax.eval_shape(jax.random.key_data, leaf)
        described = _described(name, words)
        return {**described, "generator": generator_of(leaf)}
    return {"name": name, "dtype": str(leaf.dtype), "shape": list(leaf.shape)}


def _bytes(array: np.ndarray) -> bytes:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).tobytes()


def _views(checkpoint: Checkpoint) -> dict[str, tuple[dict[str, Any], np.ndarray]]:
    """Every array of the file by its name, beside what the file says of it."""
    views, start = {}, 0
    for described in checkpoint.header["leaves"]:
        dtype, shape = jnp.dtype(described["dtype"]), described["shape"]
        size = math.prod(shape)
        flat = np.frombuffer(checkpoint.body, dtype.newbyteorder("<"), size, start)
        views[described["name"]] = described, flat.reshape(shape).astype(dtype, copy=False)
        start += size * dtype.itemsize
    return views


def _as_leaf(described: dict[str, Any], array: np.ndarray, like: Any) -> jax.Array:
    value: Any = array
    if "generator" in described:
        value = keys_from_data(KeyData(array, described["generator"]))
    return jax.device_put(value, getattr(like, "sharding", None))


def _in_words(described: dict[str, Any] | None) -> str:
    if described is None:
        return "nothing"
    keys = f" (keys of {described['generator']})" if "generator" in described else ""
    return f"{described['dtype']}{described['shape']}{keys}"
