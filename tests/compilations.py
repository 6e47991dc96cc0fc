"""Counts what XLA compiles."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Names(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        before, is_compilation, after = record.getMessage().partition("XLA compilation of ")
        if before == "Finished " and is_compilation:
            self.names.append(after.partition(" in ")[0])


@contextmanager
def count_compilations() -> Iterator[list[str]]:
    """The names of the programs that are compiled in the block, one after another."""
    logger, handler = logging.getLogger("jax._src.dispatch"), _Names()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield handler.names
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
