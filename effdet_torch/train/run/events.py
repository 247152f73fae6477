"""The numbers of every epoch as events for TensorBoard, where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from effdet_torch.errors import ConfigError, install_command
from effdet_torch.train.run.results import COLUMNS, EpochResult

FOLDER = "tensorboard"  # in the run folder
LEFT_OUT = ("epoch", "step")  # the axis


class Events(Protocol):
    """Takes the results of epochs."""

    def __call__(self, result: EpochResult) -> None:
        """Write an epoch's events."""


def open_events(folder: Path, wanted: bool, first_step: int = 0) -> Events:
    """Return what writes events; it does nothing where they are not wanted.

    Args:
        folder: of the run; events go to `FOLDER` in it.
        wanted: importing TensorBoard also imports TensorFlow where that is installed, so it must be asked for.
        first_step: a resumed run's; later events of the interrupted one are hidden.

    Raises:
        ConfigError: They are wanted, but TensorBoard is not installed.
    """
    if not wanted:
        return _nothing
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(f"--tensorboard needs TensorBoard: {install_command('tensorboard')}") from error
    writer = SummaryWriter(str(folder / FOLDER), purge_step=first_step or None)

    def write(result: EpochResult) -> None:
        for name, value in COLUMNS.items():
            found = value(result)
            if found is not None and name not in LEFT_OUT:
                writer.add_scalar(name, found, result.step)
        writer.flush()

    return write


def _nothing(result: EpochResult) -> None:
    """Write nothing."""
