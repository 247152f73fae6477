"""Run an exported file with its own runtime, and compare it with the model in PyTorch.

Exporters and runtimes are large programs with faults of their own, and a wrong result can look right: no file is kept
before it has given what the model gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from effdet_torch.engines.file_engine import Array, FileEngine
from effdet_torch.export.comparison.detections import ORDERING, compare_detections
from effdet_torch.export.comparison.nms_replay import ROUNDING
from effdet_torch.export.comparison.outputs import Compared, network_errors, wrong_file
from effdet_torch.export.detector import Normalization
from effdet_torch.export.writers.program import EXAMPLE_SIDE
from effdet_torch.network.model import EfficientDet

SEED = 0
UNITS: Mapping[str, str] = {  # of errors; of others the rms
    "scores": "in a score",
    "boxes": "of the image's longer side, in a box",
    ORDERING: "in a score: the NMS left out a box that scores so much more",
}


@dataclass(frozen=True)
class Checked:
    """The outcome of a check that passed.

    Attributes:
        runtime: what ran the file.
        error: the largest error found.
        limit: of it.
        where: the output with that error.
        detections: how many were compared; None: raw outputs were.
        otherwise: how many of them the file chose otherwise than PyTorch, of boxes that score the same.
        margin: how much more, at most, a box scored than the one that was chosen before it.
        alike: how much the best scores of the model differ, where that is less than their limit.
    """

    runtime: str
    error: float
    limit: float
    where: str
    detections: int | None = None
    otherwise: int = 0
    margin: float = 0.0
    alike: float | None = None

    def __str__(self) -> str:
        if self.detections == 0:
            return f"{self.runtime}: no detections in the noise it was given, nor from MODEL: no box was compared"
        text = f"{self.runtime}: largest error {self.error:.1e} {_unit(self.where)}, limit {self.limit:.0e}"
        if self.otherwise:
            equal = f"where scores are equal to {max(self.margin, ROUNDING):.0e}, or an overlap to the threshold"
            text += f"; {self.otherwise} of {self.detections} detections chosen otherwise, {equal}"
        if self.alike is not None:
            text += (
                f"; the scores of this model are equal to {max(self.alike, ROUNDING):.0e}: classes, and which boxes "
                "are chosen, were not told apart"
            )
        return text


def check_file(engine: FileEngine, model: EfficientDet, pixels: Array | None = None) -> Checked:
    """Compare a file with the model it was made of.

    Args:
        engine: with the file.
        model: in float32, on the CPU.
        pixels: (B, 3, H, W) float32, normalised; by default seeded noise.

    Raises:
        EffdetError: The outputs differ, or those of the model are not finite.
    """
    pixels = seeded_pixels(engine) if pixels is None else pixels
    found = engine.run(pixels)
    if engine.profile is None:
        compared = Compared(*network_errors(engine, found, pixels, model))
    else:
        compared = compare_detections(engine, engine.profile, found, pixels, model)
    errors, limits = compared.errors, compared.limits
    wrong = [name for name in errors if not errors[name] <= limits[name]]
    where = max(wrong or errors.keys() - {ORDERING}, key=lambda name: (errors[name] / limits[name], name))
    if wrong:
        by = f"by {errors[where]:.3g} {_unit(where)}, limit {limits[where]:.0e}"
        raise wrong_file(engine, f"{where} differs {by} ({len(wrong)} of {len(errors)} outputs differ)")
    detections = None if engine.profile is None else int(found[3].sum())
    return Checked(engine.runtime, errors[where], limits[where], where, detections, *compared[2:])


def _unit(output: str) -> str:
    return UNITS.get(output, f"of the rms of {output}")


def seeded_pixels(engine: FileEngine) -> Array:
    """Return a batch that the file takes, (B, 3, H, W) float32: normalised noise of whole pixel values, 0..255."""
    interface = engine.interface
    height, width = interface.image_size or (EXAMPLE_SIDE, EXAMPLE_SIDE)
    noise = np.random.default_rng(SEED).integers(0, 256, (interface.batch or 2, height, width, 3), np.uint8)
    pixels: Array = Normalization(engine.config)(torch.from_numpy(noise)).numpy()
    return pixels
