"""Fewer garbage collections while a program is imported, traced and run."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rare_garbage_collection() -> Iterator[None]:
    """Collect cyclic garbage rarely inside the block, and not when Python exits.

    Each collection visits all objects that were imported and traced. By default there are hundreds
    before the first update, and they find little, because rlscan and JAX make few cycles. The
    `cold-start` part of the `peers` benchmark measures the effect.
    """
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 20)
    atexit.register(gc.freeze)  # frozen objects are skipped by the collection at exit
    try:
        yield
    finally:
        gc.set_threshold(*before)
