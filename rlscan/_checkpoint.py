"""Policies in files: `save_policy` and `load_policy`."""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import equinox as eqx

from ._build import build_env, build_policy
from ._config import Config, from_dict, to_dict
from ._random import key as make_key
from ._types import Policy
from ._version import __version__

FORMAT = "rlscan policy"
FORMAT_VERSION = 2  # raised when a reader of this one could no longer read it

POLICY_FILE = Path("checkpoints", "policy.eqx")  # in a run directory


def save_policy(path: str | os.PathLike, policy: Policy, config: Config) -> None:
    """Writes a policy, and the config that built it, to one file.

    The file is one line of JSON, then the leaves as `eqx.tree_serialise_leaves` writes them. It
    is there whole or not at all: what was there before stays until the new one is on the disk.

    **Arguments:**

    - `path`: the file.
    - `policy`: as `build_policy` makes it from `config`, trained or not.
    - `config`: of the run.

    **Raises:** `OSError`, which names the file.
    """
    file = Path(path)
    temporary = _temporary(file)
    try:
        # Over what `reserve_policy` put there: a full disk has room for it.
        with open(temporary, "r+b" if temporary.exists() else "wb") as stream:
            stream.write(_content(policy, config))
            stream.truncate()
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None
    finally:
        temporary.unlink(missing_ok=True)


def reserve_policy(path: str | os.PathLike, policy: Policy, config: Config) -> Path:
    """Takes the room on the disk that `save_policy` will need, by this process, later.

    Not by saving the untrained policy: what a killed run left would pass for a trained one.

    **Arguments:** as for `save_policy`.

    **Returns:** the file that holds the room; it is gone when the policy is saved.
    """
    temporary = _temporary(Path(path))
    try:
        temporary.write_bytes(_content(policy, config))
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _temporary(file: Path) -> Path:
    return file.with_name(f".{file.name}.{os.getpid()}.tmp")


def _content(policy: Policy, config: Config) -> bytes:
    """Of the file. As long for any policy that `config` describes."""
    leaves = io.BytesIO()
    eqx.tree_serialise_leaves(leaves, policy)
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "rlscan_version": __version__,
        "config": to_dict(config),
        "sha256": _checksum(to_dict(config), leaves.getvalue()),
    }
    return json.dumps(header).encode() + b"\n" + leaves.getvalue()


def load_policy(path: str | os.PathLike, *, inference: bool = True) -> Policy:
    """The policy of a run.

    **Arguments:**

    - `path`: a run directory, or a file that `rlscan train` saved.
    - `inference`: whether dropout is off, as when a policy is used; `False` gives it as it was
        trained.

    **Returns:** the policy.

    **Raises:** `FileNotFoundError` if there is none; `ValueError` if the file is no policy of
    rlscan, damaged, or of a later version.
    """
    path = Path(path)
    file = path / POLICY_FILE if path.is_dir() else path
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no policy at {file}; give the directory of a run, which holds {POLICY_FILE}"
        ) from None
    header, leaves = _read(file, content)
    config = from_dict(header["config"])
    env = build_env(config.env)
    skeleton = eqx.filter_eval_shape(lambda: build_policy(config, env, key=make_key(0)))
    policy = eqx.tree_deserialise_leaves(io.BytesIO(leaves), skeleton)
    return eqx.nn.inference_mode(policy) if inference else policy


def _read(file: Path, content: bytes) -> tuple[dict[str, Any], bytes]:
    """`(header, leaves)`, the leaves as they were written."""
    first_line, _, leaves = content.partition(b"\n")
    try:
        header = json.loads(first_line)
    except ValueError:  # UnicodeDecodeError is one, too
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{file} is no policy saved by rlscan, or its first line is damaged")
    version = header.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(
            f"{file} has format {version}, saved by rlscan {header.get('rlscan_version')}; "
            f"rlscan {__version__} reads formats up to {FORMAT_VERSION}: pip install -U rlscan"
        )
    if header.get("sha256") != _checksum(header.get("config"), leaves):
        raise ValueError(f"{file} is cut short or damaged: its content does not match its checksum")
    return header, leaves


def _checksum(config: Any, leaves: bytes) -> str:
    return hashlib.sha256(json.dumps(config).encode() + leaves).hexdigest()
