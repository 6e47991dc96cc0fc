"""Files of one line of JSON, then bytes: they say what they are, and whether they are whole."""

import hashlib
import json
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


def _checksum(header: dict[str, Any], body: bytes) -> str:
    told = {name: value for name, value in header.items() if name != "sha256"}
    match header["format"], header.get("format_version"):  # what older ones covered
        case "rlscan policy", 1 | 2:
            told = header.get("config")
        case "rlscan exported policy", 1:
            return hashlib.sha256(body).hexdigest()
    return hashlib.sha256(json.dumps(told).encode() + body).hexdigest()
