"""What a format is: its name, what writes and runs its files, and what they can hold, a cell for each use.

A cell is *validated* by a test that runs the exported file and compares its outputs, and its detections if it has any,
with those of the model in PyTorch; it names that test. Otherwise it gives a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from effdet_torch.config import EfficientDetConfig
from effdet_torch.engines.document import Interface, Outputs, Precision
from effdet_torch.engines.names import EXPORTERS, FORMAT_SUFFIXES
from effdet_torch.errors import ConfigError
from effdet_torch.export.detector import ExportedDetector
from effdet_torch.export.settings import ExportSettings, Suppression
from effdet_torch.export.writers.program import Job, Written
from effdet_torch.processing.profiles import Profile, own_profile

Shape = Literal["static", "batch", "size"]
Status = Literal["validated", "experimental", "impossible"]
CellKey = tuple[Outputs, Shape]

COLUMNS: tuple[CellKey, ...] = (
    ("network", "static"),
    ("network", "batch"),
    ("network", "size"),
    ("detections", "static"),
    ("detections", "batch"),
    ("detections", "size"),
)
SHAPES: Mapping[Shape, str] = {"static": "fixed sizes", "batch": "any batch", "size": "any image size"}


@dataclass(frozen=True)
class Cell:
    """What is known of one use of a format.

    Attributes:
        status: whether it works.
        text: the id of the test of a validated cell; the reason of another.
    """

    status: Status
    text: str


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: as `--format` takes it.
        runtime: what runs them.
        write: writes a file and those beside it.
        cells: a cell for each of `COLUMNS`.
        precisions: of weights and arithmetic.
        note: what a user must know; "" if nothing.
        nms_note: what a user must know of the detections inside; "" if nothing.
        detector: makes the detections inside a file, where its graph is made from a module.
        soft: whether it can suppress softly.
        is_run: whether there is an engine that runs it here.
        nms: what it has unless the user says otherwise.
        profile: what the detections inside have unless the user says otherwise.
        why_not: why it cannot hold something; "" if it can.
    """

    name: str
    runtime: str
    write: Callable[[Job, Path], Written]
    cells: Mapping[CellKey, Cell]
    precisions: tuple[Precision, ...] = ("float32",)
    note: str = ""
    nms_note: str = ""
    detector: type[ExportedDetector] = ExportedDetector
    soft: bool = True
    is_run: bool = True
    nms: Suppression = "none"
    profile: Callable[[EfficientDetConfig], Profile] = own_profile
    why_not: Callable[[Interface], str] = lambda _: ""

    @property
    def suffix(self) -> str:
        """The suffix of its files."""
        return FORMAT_SUFFIXES[self.name]

    @property
    def extra(self) -> str:
        """What to install for it, as `install_command` says; "" if nothing."""
        return EXPORTERS[self.name][0] if self.name in EXPORTERS else ""

    def notes(self, outputs: Outputs = "detections") -> list[str]:
        """Return what a user must know of a file."""
        return [note for note in (self.note, self.nms_note if outputs == "detections" else "") if note]

    def interface(self, settings: ExportSettings, config: EfficientDetConfig) -> Interface:
        """Return what a file of this format will take and return; see `ExportSettings.interface`.

        Raises:
            ConfigError: Settings and model do not fit.
        """
        chosen = settings if settings.nms is not None else replace(settings, nms=self.nms)
        if chosen.nms == "soft":
            self.require_soft()
        return chosen.interface(config, self.profile)

    def require_soft(self) -> None:
        """Refuse soft NMS where there is none.

        Raises:
            ConfigError: The format has hard NMS only.
        """
        if not self.soft:
            raise ConfigError(f"{self.name} has hard NMS only; pass --nms hard")


def shape_of(interface: Interface) -> Shape:
    """Return which dimensions of a file's input are free."""
    if interface.image_size is None:
        return "size"
    return "batch" if interface.batch is None else "static"


def require_possible(row: Format, interface: Interface) -> Cell:
    """Return the cell of a file.

    Raises:
        ConfigError: The format cannot hold it.
    """
    shape = shape_of(interface)
    cell = row.cells[interface.outputs, shape]
    if cell.status == "impossible":
        raise ConfigError(
            f"{row.name} cannot hold {interface.outputs} with {SHAPES[shape]}: {cell.text}; "
            "effdet-export --list shows what each format can hold"
        )
    if reason := row.why_not(interface):
        raise ConfigError(f"{row.name}: {reason}")
    if interface.profile.get("sigma"):
        row.require_soft()
    if interface.precision not in row.precisions:
        raise ConfigError(
            f"{row.name} is written in {' or '.join(row.precisions)}, not in {interface.precision}; choose another "
            "--precision or --format"
        )
    return cell
