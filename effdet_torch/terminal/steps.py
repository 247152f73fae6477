"""The steps of a command as lines on stderr: what the modules that work report to the logger "effdet"."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from effdet_torch.terminal.text import say

LOGGER = "effdet"


class Lines(logging.Handler):
    """Prints every record with the seconds since the handler was made."""

    def __init__(self) -> None:
        super().__init__()
        self._start = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        say(f"{time.monotonic() - self._start:7.2f} s  {record.getMessage()}", err=True)


@contextmanager
def shown_steps() -> Iterator[None]:
    """Show the steps as long as the block runs."""
    logger, lines = logging.getLogger(LOGGER), Lines()
    before = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(lines)
        logger.setLevel(before)
