"""Checkpoints: the arrays of a training state in one file, named and self-describing."""

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._core.files import as_written, encode, entry, read, write_whole
from .._core.tree import is_key, is_shape
from .._core.types import PyTree
from ..random._keys import KeyData, generator_of, key_data, keys_from_data

FORMAT = "rlscan checkpoint"
FORMAT_VERSION = 1  # raised when older versions of rlscan can no longer read a file

DIRECTORY = "checkpoints"  # in a run directory
BEST = "best.ckpt"  # the checkpoint before which episodes returned most
# Arrays of the training state that early checkpoints lack, and what stands for them.
_LATER = {".recent_returns.values": 0, ".recent_returns.count": 0}
_NAME = re.compile(r"update-(\d+)\.ckpt")


@dataclasses.dataclass(frozen=True)
class Leaf:
    """The description of an array in a file, by which its bytes can be read."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    generator: str | None = None  # of keys, which are written as the words they are made of

    def __str__(self) -> str:
        keys = f" (keys of {self.generator})" if self.generator else ""
        return f"{self.dtype}{list(self.shape)}{keys}"

    def as_dict(self) -> dict[str, Any]:
        return {name: x for name, x in dataclasses.asdict(self).items() if x is not None}


class Checkpoint(NamedTuple):
    """The content of a checkpoint file."""

    file: Path
    header: dict[str, Any]  # "config", "counts" of the log, "leaves" of the state
    body: bytes  # the arrays of the state, one after another
    arrays: dict[str, tuple[Leaf, np.ndarray]]  # the same, by name


def save_checkpoint(
    path: str | os.PathLike, state: PyTree, *, config: Mapping[str, Any] | None = None
) -> None:
    """Write the arrays of a training state to one file.

    The file appears as a whole or not at all: what was there stays until the new one is on the
    disk. `rlscan.runs.Run` writes checkpoints by itself; this is for a loop without one.

    **Arguments:**

    - `path`: the file.
    - `state`: any pytree. Only arrays are saved, keys among them; the rest comes from the `like` of
        `load_checkpoint`.
    - `config`: settings to keep in the file, of plain dicts, lists, strings and numbers.

    **Raises:** `OSError`, which names the file.
    """
    write_whole(Path(path), checkpoint_content(state, config))


def load_checkpoint(path: str | os.PathLike, like: PyTree) -> PyTree:
    """Read a training state.

    **Arguments:**

    - `path`: a file of `save_checkpoint`, or a run directory, whose last checkpoint is read.
    - `like`: a state of the same structure, such as the one that training starts from; or its
        shapes (`eqx.filter_eval_shape`). Its arrays are replaced and all else is kept.

    **Returns:** the state.

    **Raises:** `FileNotFoundError` if there is none; `ValueError` if the file is foreign, damaged
    or of a later version, or does not fit `like`.
    """
    file = Path(path)
    if os.path.isdir(file):
        file = next(iter(checkpoint_files(file)), file / DIRECTORY)
        if file.is_dir() or not file.exists():
            raise FileNotFoundError(f"no checkpoint in {file}; train for longer, or name a file")
    return restore(read_checkpoint(file), like)


def checkpoint_content(
    state: PyTree, config: Mapping[str, Any] | None, header: Mapping[str, Any] | None = None
) -> bytes:
    """Encode a checkpoint.

    One line of JSON names every array of the state, so that a later version can find it. Their
    bytes follow, in C order and little-endian. Keys are written as the words they are made of, with
    the name of their generator.

    **Arguments:**

    - `state`: any pytree of arrays.
    - `config`: the settings of the run.
    - `header`: further entries of the first line.
    """
    leaves = _named_arrays(state)
    arrays = [key_data(x).words if is_key(x) else np.asarray(x) for x in leaves.values()]
    described = [describe(name, x).as_dict() for name, x in leaves.items()]
    lines = {"config": config, "counts": {}, **(header or {}), "leaves": described}
    return encode(FORMAT, FORMAT_VERSION, lines, b"".join(_bytes(x) for x in arrays))


def read_checkpoint(file: Path) -> Checkpoint:
    """Read a file; `ValueError` if it is foreign, damaged or of a later version."""
    return checkpoint_of(file, *read(file, {FORMAT: FORMAT_VERSION}))


def checkpoint_of(file: Path, header: dict[str, Any], body: bytes) -> Checkpoint:
    """Find the arrays in the content of a file; `ValueError` if it is not that of a checkpoint."""
    arrays, start = {}, 0
    leaves = entry(file, header, "leaves", list[Leaf])
    with as_written(file):
        for leaf in leaves:
            dtype, size = _dtype(leaf), math.prod(leaf.shape)
            end = start + size * dtype.itemsize
            if leaf.name in arrays or min(leaf.shape, default=0) < 0 or end > len(body):
                raise ValueError(f"{leaf.name} {leaf} must be one of the arrays that follow")
            flat = np.frombuffer(body, dtype.newbyteorder("<"), size, start)
            arrays[leaf.name] = leaf, flat.reshape(leaf.shape).astype(dtype, copy=False)
            start = end
        if start < len(body):
            raise ValueError(f"its arrays must have {start} bytes, got {len(body)}")
    return Checkpoint(file, header, body, arrays)


def _dtype(leaf: Leaf) -> np.dtype:
    try:
        dtype = jnp.dtype(leaf.dtype)
    except TypeError:
        dtype = jnp.dtype(object)
    if not (jnp.issubdtype(dtype, np.number) or dtype == np.bool_):
        raise ValueError(f"{leaf.name} must be numbers, got the dtype {leaf.dtype!r}")
    return dtype


def restore(checkpoint: Checkpoint, like: PyTree, *, within: str = "") -> PyTree:
    """Make the saved state, on the devices where `like` is.

    **Arguments:**

    - `checkpoint`: from `read_checkpoint`.
    - `like`: arrays of the same shapes and structure, or the shapes alone.
    - `within`: the name of the wanted part, such as `".policy"`; by default everything.

    **Raises:** `ValueError`, naming the first array that differs.
    """
    saved = dict(checkpoint.arrays)
    wanted = _named_arrays(like)
    loaded = []
    for name, leaf in wanted.items():
        described = describe(within + name, leaf)
        found, array = saved.pop(within + name, (None, np.empty(0)))
        if found is None and within + name in _LATER:  # it was saved before there was such an array
            found, array = described, np.full(leaf.shape, _LATER[within + name], leaf.dtype)
        if found is None or found != described:
            raise ValueError(
                f"{checkpoint.file} does not fit its config: {within + name} must be "
                f"{described}, got {found or 'nothing'}; it was saved by "
                f"rlscan {checkpoint.header.get('rlscan_version')}"
            )
        loaded.append(_as_leaf(found, array, leaf))
    if left := [name for name in saved if name.startswith(within)]:
        raise ValueError(f"{checkpoint.file} does not fit its config: it has {left[0]}, too")
    arrays, rest = eqx.partition(like, is_shape)
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(arrays), loaded), rest)


def find_part(checkpoint: Checkpoint, like: PyTree) -> str:
    """Find the one part of a checkpoint whose arrays are those of `like`, and return its name."""
    saved = {name: leaf for name, (leaf, _) in checkpoint.arrays.items()}
    wanted = _named_arrays(like)
    first = next(iter(wanted), None)
    ends = [name for name in saved if first is not None and name.endswith(first)]
    parts = [name.removesuffix(first or "") for name in ends]
    fits = [
        part
        for part in parts
        if all(saved.get(part + name) == describe(part + name, x) for name, x in wanted.items())
    ]
    if len(fits) != 1:
        raise ValueError(
            f"{checkpoint.file} must hold one part with the arrays of `like`, got {len(fits)}; "
            "pass the policy that training started from, or use rlscan.runs.load_checkpoint"
        )
    return fits[0]


def checkpoint_files(directory: Path) -> list[Path]:
    """List the checkpoints of a run directory, newest first."""
    files = (directory / DIRECTORY).glob("update-*.ckpt")
    return sorted((f for f in files if _NAME.fullmatch(f.name)), key=update_of, reverse=True)


def update_of(file: Path) -> int:
    """The number of updates before a checkpoint, from the name of its file."""
    match = _NAME.fullmatch(file.name)
    return int(match[1]) if match else -1


def keep_checkpoint(
    directory: Path,
    content: bytes,
    *,
    num_updates: int,
    best_update: int,
    keep: int,
    room: Path | None = None,
) -> None:
    """Write a checkpoint to a run directory, then remove all but the last `keep` and the best.

    **Raises:** `OSError`, which names the file; all older ones are there then.
    """
    write_whole(_file_at(directory, num_updates), content, room=room)
    if best_update == num_updates:
        mark_best(directory, num_updates)
    for old in checkpoint_files(directory)[keep:]:
        old.unlink(missing_ok=True)


def mark_best(directory: Path, num_updates: int) -> None:
    """Give a checkpoint the name of the best as well, by a hard link.

    If it fails, the next process that resumes from the checkpoint does it.
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
            temporary.unlink(missing_ok=True)  # it stays if both names were of one file


def keep_as_own(file: Path, directory: Path, num_updates: int) -> None:
    """Give the checkpoint that a run goes on from the name of its update, if nothing has it."""
    own = _file_at(directory, num_updates)
    if own.exists():
        return
    try:
        os.link(file, own)
    except OSError:  # a file system without links
        write_whole(own, file.read_bytes())


def _file_at(directory: Path, num_updates: int) -> Path:
    return directory / DIRECTORY / f"update-{num_updates:010}.ckpt"


def _named_arrays(tree: PyTree) -> dict[str, Any]:
    arrays = eqx.filter(tree, is_shape)
    return {
        jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(arrays)
    }


def describe(name: str, leaf: Any) -> Leaf:
    """Describe an array, or the shape of one."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        words = jax.eval_shape(jax.random.key_data, leaf)
        return Leaf(name, str(words.dtype), words.shape, generator_of(leaf))
    return Leaf(name, str(leaf.dtype), tuple(leaf.shape))


def _bytes(array: np.ndarray) -> bytes:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).tobytes()


def _as_leaf(described: Leaf, array: np.ndarray, like: Any) -> jax.Array:
    value: Any = array
    if described.generator is not None:
        value = keys_from_data(KeyData(array, described.generator))
    return jax.device_put(value, getattr(like, "sharding", None))
