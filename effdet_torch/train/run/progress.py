"""How far a training is: a bar for every epoch on a terminal, and a line for every epoch everywhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from effdet_torch.terminal.bar import progress_bar
from effdet_torch.terminal.verbosity import tell
from effdet_torch.train.run.results import COPIES, EpochResult

Update = Callable[[int, float, int | None], None]  # (images done of this epoch, loss, bytes of memory)


class RunProgress:
    """Shows a run's progress; only the process of rank 0 has one.

    Args:
        epochs: of the whole run.
        images: of an epoch, of all processes together.
        clock: returns seconds.
    """

    def __init__(self, epochs: int, images: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.epochs, self.images = epochs, images
        self._clock, self._start = clock, clock()
        self._own = 0  # images since the start; an interrupted run may have done others before

    @contextmanager
    def epoch(self, number: int, first: int = 0) -> Iterator[Update]:
        """Yield what shows how far an epoch is.

        Args:
            number: of the epoch, from 1.
            first: images of it that an interrupted run did before.
        """
        begin, before, line = self._clock(), self._own, ""
        with progress_bar(f"epoch {number}/{self.epochs}", text=lambda: line) as show:

            def update(images: int, loss: float, memory_bytes: int | None) -> None:
                nonlocal line
                self._own = before + images - first
                if show is None:
                    return
                rate = (images - first) / max(self._clock() - begin, 1e-9)
                left = duration(self.seconds_left((number - 1) * self.images + images))
                texts = (f"loss {loss:.4g}", f"{rate:.1f}/s", f"{left} left", _memory(memory_bytes))
                line = ", ".join(filter(None, texts))
                show(images, self.images)

            yield update

    def seconds_left(self, images: int) -> float:
        """Return the time left for the whole run, at the mean speed since its start, validations included.

        Args:
            images: done of the whole run.
        """
        return (self._clock() - self._start) * (self.epochs * self.images - images) / max(self._own, 1)

    def tell(self, result: EpochResult) -> None:
        """Print an epoch's line."""
        tell(epoch_line(result, self.epochs))


def epoch_line(result: EpochResult, epochs: int) -> str:
    """Return an epoch as one line for people."""
    losses = {"loss": "total", "class": "classes", "box": "boxes"}
    parts = [f"{name} {result.losses[key]:.4g}" for name, key in losses.items() if result.losses.get(key) is not None]
    scores = {copy: result.metric(copy, "AP") for copy in COPIES if copy in result.metrics}
    found = [f"{copy} {'n/a' if ap is None else f'{100 * ap:.1f}'}" for copy, ap in scores.items()]
    speed = f"{result.images / result.seconds:.1f} images/s" if result.seconds else ""
    took = duration(result.seconds + result.validation_seconds)
    validated = f"AP {', '.join(found)}" if found else ""
    texts = (", ".join(parts), f"lr {result.lr:.3g}", validated, took, speed)
    return f"epoch {result.epoch}/{epochs}  " + "  ".join(filter(None, (*texts, _memory(result.memory_bytes))))


def duration(seconds: float) -> str:
    """Return 42 s, 3:07 or 2:03:07."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if whole < 60:
        return f"{whole} s"
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _memory(count: int | None) -> str:
    return "" if count is None else f"{count / 1e9:.1f} GB"
