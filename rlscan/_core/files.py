"""What is on the disk whole or not at all: files, and what is appended to them."""

import contextlib
import errno
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._version import __version__


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


def append(files: Sequence[io.FileIO], contents: Sequence[bytes]) -> None:
    """Writes to the end of each file, or nothing to any: each is unbuffered, and at its end.

    **Raises:** `OSError`, which names the file.
    """
    ends = [file.tell() for file in files]
    try:
        for file, content in zip(files, contents, strict=True):
            _write(file, content)
    except BaseException:  # a second Ctrl-C, too
        for file, end in zip(files, ends, strict=True):
            file.truncate(end)
            file.seek(end)
        raise


def remove_temporaries(directory: Path) -> None:
    """What processes that were killed have left of their files."""
    for left in directory.glob(".*.tmp"):
        left.unlink(missing_ok=True)


def _write(file: io.FileIO, content: bytes) -> None:
    try:
        if file.write(content) != len(content):  # a disk that fills up takes what fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file.name)) from None


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


def _checksum(header: dict[str, Any], body: bytes) -> str:
    told = {name: value for name, value in header.items() if name != "sha256"}
    match header["format"], header.get("format_version"):  # what older ones covered
        case "rlscan policy", 1 | 2:
            told = header.get("config")
        case "rlscan exported policy", 1:
            return hashlib.sha256(body).hexdigest()
    return hashlib.sha256(json.dumps(told).encode() + body).hexdigest()
