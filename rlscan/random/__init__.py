"""Random keys: the generators that can be replayed, and rlscan's own, `mix32`."""

from ._keys import (
    GENERATORS as GENERATORS,
    KeyData as KeyData,
    as_threefry as as_threefry,
    key as key,
    key_data as key_data,
    keys_from_data as keys_from_data,
)
from ._mix32 import mix32 as mix32

__all__ = [
    "GENERATORS",
    "KeyData",
    "as_threefry",
    "key",
    "key_data",
    "keys_from_data",
    "mix32",
]
