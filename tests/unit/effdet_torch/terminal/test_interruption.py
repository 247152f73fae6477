"""Signals to a training."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from effdet_torch.terminal.interruption import Interruption


@pytest.fixture
def restored() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(("handler", "wanted"), [(signal.default_int_handler, True), (signal.SIG_IGN, False)])
def test_a_signal_is_noted_unless_it_is_ignored(handler: signal.Handlers, wanted: bool) -> None:
    signal.signal(signal.SIGINT, handler)
    interruption = Interruption()
    with interruption.deferred():
        os.kill(os.getpid(), signal.SIGINT)
    assert interruption.wanted == wanted
    assert signal.getsignal(signal.SIGINT) == handler


@pytest.mark.usefixtures("restored")
def test_a_second_signal_acts_at_once() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Interruption().deferred():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
