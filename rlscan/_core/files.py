"""Files that are written atomically: a crash or a full disk never leaves half of one."""

import contextlib
import errno
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._version import __version__
from .schema import structured


def write_whole(file: Path, content: bytes, *, room: Path | None = None) -> None:
    """Write a file atomically: the old content stays until the new content is on the disk.

    **Arguments:**

    - `file`: the file to write.
    - `content`: its new content.
    - `room`: the file from `reserve`, if space was reserved. The content is written into it, so
        that a full disk does not matter, and it is gone afterwards.

    **Raises:** `OSError`, with the file's name.
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
    """Reserve the space on the disk that `write_whole` will need for `file`.

    **Returns:** a temporary file of that size. Only this process can pass it to `write_whole`.
    """
    temporary = _temporary(file)
    try:
        temporary.write_bytes(bytes(num_bytes))
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def append(files: Sequence[io.FileIO], contents: Sequence[bytes]) -> None:
    """Append to several files, or to none of them if one fails.

    **Arguments:**

    - `files`: unbuffered files, each positioned at its end.
    - `contents`: the bytes for each file.

    **Raises:** `OSError`, with the name of the file that failed.
    """
    ends = [file.tell() for file in files]
    try:
        for file, content in zip(files, contents, strict=True):
            _write(file, content)
    except BaseException:  # including KeyboardInterrupt, at a second Ctrl-C
        for file, end in zip(files, ends, strict=True):
            file.truncate(end)
            file.seek(end)
        raise


def remove_temporaries(directory: Path) -> None:
    """Delete the temporary files of processes that were killed."""
    for file in directory.glob(".*.tmp"):
        file.unlink(missing_ok=True)


def _write(file: io.FileIO, content: bytes) -> None:
    try:
        if file.write(content) != len(content):  # a short write, because the disk is full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file.name)) from None


def _temporary(file: Path) -> Path:
    return file.with_name(f".{file.name}.{os.getpid()}.tmp")


def _sync(directory: Path) -> None:
    """Flush the entries of a directory to the disk, so that a renamed file survives a crash."""
    with contextlib.suppress(OSError):  # some file systems do not support it, and do not need it
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def encode(format: str, version: int, header: dict[str, Any], body: bytes) -> bytes:
    """Encode a file: one line of JSON with the format, `header` and a checksum, then `body`."""
    line = {"format": format, "format_version": version, "rlscan_version": __version__, **header}
    line["sha256"] = _checksum(line, body)
    return json.dumps(line).encode() + b"\n" + body


def read(file: Path, formats: Mapping[str, int]) -> tuple[dict[str, Any], bytes]:
    """Read a file that `encode` made.

    **Arguments:**

    - `file`: an existing file.
    - `formats`: the accepted formats, with the newest version of each that can be read. Messages
        call the file by the first one.

    **Returns:** `(header, body)`. The entries of the header are yet to be checked, see `entry`.

    **Raises:** `FileNotFoundError`; `ValueError`, with the file's name, if the file cannot be read,
    has another format or a newer version, or is damaged.
    """
    first_line, _, body = _content(file).partition(b"\n")
    try:
        header = json.loads(first_line)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError, too
        header = None
    found = header.get("format") if isinstance(header, dict) else None
    if not isinstance(header, dict) or not isinstance(found, str) or found not in formats:
        noun = next(iter(formats)).removeprefix("rlscan ")
        raise ValueError(f"{file} is no {noun} saved by rlscan, or its first line is damaged")
    version, newest = header.get("format_version"), formats[found]
    if isinstance(version, int) and version > newest:
        raise ValueError(
            f"{file} has format {version}, saved by rlscan {header.get('rlscan_version')}; "
            f"rlscan {__version__} reads formats up to {newest}: pip install -U rlscan"
        )
    if header.get("sha256") != _checksum(header, body):
        raise ValueError(f"{file} is cut short or damaged: its content does not match its checksum")
    entry(file, header, "format_version", int)
    return header, body


def entry(file: Path, header: Mapping[str, Any], name: str, kind: Any) -> Any:
    """Take an entry out of the header of a file, as a value of a type.

    **Arguments:**

    - `file`: the file, for messages.
    - `header`: from `read`.
    - `name`: of the entry. A missing one counts as `None`, and is refused unless the type takes it.
    - `kind`: the type, see `structured`.

    **Raises:** `ValueError`, which names the file and what is wrong in it. A checksum that is right
    says only that the file is as somebody wrote it.
    """
    with as_written(file):
        return structured(header.get(name), kind, name)


@contextlib.contextmanager
def as_written(file: Path) -> Iterator[None]:
    """Say in a `ValueError` about the content of a file which file it is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"{file} is not as rlscan writes it: {error}; save it again, or give another file"
        ) from None


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: no file can have such a name
        raise ValueError(f"cannot read {file}: {getattr(error, 'strerror', error)}") from None


def _checksum(header: dict[str, Any], body: bytes) -> str:
    covered = {name: value for name, value in header.items() if name != "sha256"}
    match header["format"], header.get("format_version"):  # older versions covered less
        case "rlscan policy", 1 | 2:
            covered = header.get("config")
        case "rlscan exported policy", 1:
            return hashlib.sha256(body).hexdigest()
    return hashlib.sha256(json.dumps(covered).encode() + body).hexdigest()
