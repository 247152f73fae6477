"""A module as torch's exported program, from which most formats are made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from effdet_torch.engines.document import INPUT, Document
from effdet_torch.engines.file_engine import Array, quiet
from effdet_torch.errors import EffdetError
from effdet_torch.export.detector import ExportedDetector, exportable
from effdet_torch.network.model import EfficientDet

SMALLEST_SIDE, LARGEST_SIDE = 257, 4096  # of images of any size, in pixels: all levels halve both sides
EXAMPLE_SIDE = 640  # of an image of any size, in pixels


@dataclass(frozen=True)
class Job:
    """What to write.

    Attributes:
        model: in float32, on the CPU, in eval mode.
        document: of the file.
        detector: makes the detections, if the file has them inside.
        opset: of ONNX.
        calibration: images (1, 3, H, W) float32 each, as the network takes them, to measure ranges with; for int8.
    """

    model: EfficientDet
    document: Document
    detector: type[ExportedDetector]
    opset: int
    calibration: Iterable[Array] = ()

    @cached_property
    def module(self) -> nn.Module:
        """Takes and returns what the document states."""
        return exportable(self.model, self.document.interface, self.detector)

    @property
    def example(self) -> Tensor:
        """An input of the file; dimensions of any size are above 1, which exporters take for a constant."""
        interface = self.document.interface
        batch = interface.batch or 2
        size = interface.image_size or (EXAMPLE_SIDE, EXAMPLE_SIDE)
        if interface.pixels == "uint8":
            return torch.zeros((batch, *size, 3), dtype=torch.uint8)
        return torch.zeros((batch, 3, *size))

    @property
    def dynamic_shapes(self) -> dict[str, dict[int, Dim]]:
        """The dimensions of the input that have any size."""
        interface = self.document.interface
        first = 1 if interface.pixels == "uint8" else 2
        dimensions = {} if interface.batch else {0: Dim("batch")}
        if interface.image_size is None:
            dimensions |= {
                axis: Dim(name, min=SMALLEST_SIDE, max=LARGEST_SIDE)
                for axis, name in ((first, "height"), (first + 1, "width"))
            }
        return {INPUT: dimensions}


def exported_program(job: Job) -> ExportedProgram:
    """Return the program of a module.

    Raises:
        EffdetError: The module cannot be exported.
    """
    with quiet(), explained("torch.export"), torch.no_grad():
        return torch.export.export(job.module, (job.example,), dynamic_shapes=job.dynamic_shapes)


@contextmanager
def explained(exporter: str) -> Iterator[None]:
    """Turn whatever an exporter raises into one line.

    Raises:
        EffdetError: The block raised.
    """
    try:
        yield
    except EffdetError:
        raise
    except Exception as error:  # any kind
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise EffdetError(
            f"{exporter} cannot export this model: {type(error).__name__}: {reason}; effdet-export --list shows what "
            "each format can hold"
        ) from error


Written = list[Path]
