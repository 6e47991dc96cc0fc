"""Files that are there whole or not at all: one line of JSON, then bytes."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._version import __version__


def encode(format: str, version: int, header: dict[str, Any], body: bytes) -> bytes:
    """The content of a file: its format and `header` in one line, with a checksum, then `body`."""
    line = {"format": format, "format_version": version, "rlscan_version": __version__, **header}
    line["sha256"] = _checksum(line, body)
    return json.dumps(line).encode() + b"\n" + body


def read(file: Path, formats: Mapping[str, int]) -> tuple[dict[str, Any], bytes]:
    """`(header, body)` of a file, as they were encoded.

    **Arguments:**

    - `file`: one that exists.
    - `formats`: those that are wanted, the first by name in messages, with the newest version of
        each that can be read.

    **Raises:** `ValueError`, which names the file, if it is foreign, damaged or of a later version.
    """
    first_line, _, body = file.read_bytes().partition(b"\n")
    try:
        header = json.loads(first_line)
    except ValueError:  # UnicodeDecodeError is one, too
        header = None
    if not isinstance(header, dict) or header.get("format") not in formats:
        noun = next(iter(formats)).removeprefix("rlscan ")
        raise ValueError(f"{file} is no {noun} saved by rlscan, or its first line is damaged")
    version, newest = header.get("format_version"), formats[header["format"]]
    if isinstance(version, int) and version > newest:
        raise ValueError(
            f"{file} has format {version}, saved by rlscan {header.get('rlscan_version')}; "
            f"rlscan {__version__} reads formats up to {newest}: pip install -U rlscan"
        )
    if header.get("sha256") != _checksum(header, body):
        raise ValueError(f"{file} is cut short or damaged: its content does not match its checksum")
    return header, body


def write_whole(file: Path, content: bytes, *, room: Path | None = None) -> None:
    """Writes a file: what was there before stays until the new one is on the disk.

    **Arguments:**

    - `file`, `content`: what, and where.
    - `room`: from `reserve`. It is written over, so that a full disk has room; and gone after.

    **Raises:** `OSError`, which names the file.
    """
    temporary = _temporary(file) if room is None else room
    try:
        with open(temporary, "r+b" if temporary.exists() else "wb") as stream:
            stream.write(content)
            stream.truncate()
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
        _sync(file.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None
    finally:
        temporary.unlink(missing_ok=True)


def reserve(file: Path, num_bytes: int) -> Path:
    """Takes the room on the disk that `write_whole` will need for `file`, by this process, later.

    **Returns:** the file that holds the room, which is none that could be read by mistake.
    """
    temporary = _temporary(file)
    try:
        temporary.write_bytes(bytes(num_bytes))
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def remove_temporaries(directory: Path) -> None:
    """What processes that were killed have left of their files."""
    for left in directory.glob(".*.tmp"):
        left.unlink(missing_ok=True)


def _temporary(file: Path) -> Path:
    return file.with_name(f".{file.name}.{os.getpid()}.tmp")


def _sync(directory: Path) -> None:
    """The names in a directory on the disk, too; where a file system cannot, it does so itself."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _checksum(header: dict[str, Any], body: bytes) -> str:
    told = {name: value for name, value in header.items() if name != "sha256"}
    if header["format"] == "rlscan policy" and header.get("format_version") in (1, 2):
        told = header.get("config")  # all that these covered
    return hashlib.sha256(json.dumps(told).encode() + body).hexdigest()
