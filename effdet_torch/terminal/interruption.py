"""Ctrl-C and SIGTERM between two updates instead of inside one: what was done is saved before the training ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether the process has been asked to end.

    Attributes:
        wanted: whether it has.
    """

    def __init__(self) -> None:
        self.wanted = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Note the first signal inside the block and let it go on; a second one acts at once, as always."""
        if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
            yield
            return
        handlers: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
        # What is ignored stays so: a shell keeps the Ctrl-C of its terminal from the jobs in its background.
        before = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}

        def note(number: int, _: FrameType | None) -> None:
            self.wanted = True
            signal.signal(number, before[number])

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does: by `KeyboardInterrupt`, instead of at once and without a word."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
