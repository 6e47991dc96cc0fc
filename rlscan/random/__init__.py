"""Keys: which generators can be replayed, and the one that rlscan starts from."""

from ._keys import (
    GENERATORS as GENERATORS,
    KeyData as KeyData,
    key as key,
    key_data as key_data,
    keys_from_data as keys_from_data,
)
from ._mix32 import mix32 as mix32
