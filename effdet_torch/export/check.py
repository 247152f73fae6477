"""Run an exported file with its own runtime, and compare it with the model in PyTorch.

Exporters and runtimes are large programs with faults of their own, and a wrong result can look right: no file is kept
before it has given what the model gives.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from effdet_torch.engines.document import Precision
from effdet_torch.engines.file_engine import Array, FileEngine
from effdet_torch.errors import EffdetError
from effdet_torch.export.detector import Normalization
from effdet_torch.export.writers.program import EXAMPLE_SIDE
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.network.model import EfficientDet
from effdet_torch.processing.postprocess import postprocess

SEED = 0
# Largest error of an output, of the rms of that output. float32: sums in another order differ by 1e-5 to 3e-4; a wrong
# kernel, weight or padding by more than 1e-2. float16 has a mantissa of 10 bits, and errors add up over 80 layers.
LIMITS: Mapping[Precision, float] = {"float32": 1e-3, "float16": 1e-1}
OWN_ERRORS = 10  # times the error of PyTorch in float32 is no fault of a runtime either
# Detections: of the scores, and of the boxes in units of the image's longer side.
SCORE_LIMITS: Mapping[Precision, float] = {"float32": 1e-3, "float16": 5e-2}
BOX_LIMITS: Mapping[Precision, float] = {"float32": 1e-3, "float16": 5e-2}


@dataclass(frozen=True)
class Checked:
    """The outcome of a check that passed.

    Attributes:
        runtime: what ran the file.
        error: the largest error found.
        limit: of it.
        where: the output with that error.
    """

    runtime: str
    error: float
    limit: float
    where: str

    def __str__(self) -> str:
        return f"{self.runtime}: largest error {self.error:.1e} ({self.where}), limit {self.limit:.0e}"


def check_file(engine: FileEngine, model: EfficientDet) -> Checked:
    """Compare a file with the model it was made of, on seeded noise.

    Args:
        engine: with the file.
        model: in float32, on the CPU.

    Raises:
        EffdetError: The outputs differ.
    """
    pixels = seeded_pixels(engine)
    compare = _network_errors if engine.interface.outputs == "network" else _detection_errors
    errors, limits = compare(engine, engine.run(pixels), pixels, model)
    where = max(errors, key=lambda name: errors[name] / limits[name])
    wrong = [name for name in errors if not errors[name] <= limits[name]]
    if wrong:
        raise EffdetError(
            f"the exported file is wrong: run by {engine.runtime}, {where} differs by {errors[where]:.3g}, limit "
            f"{limits[where]:.0e} ({len(wrong)} of {len(errors)} outputs differ); nothing was kept. Use another format "
            "or another version of the runtime"
        )
    return Checked(engine.runtime, errors[where], limits[where], where)


Errors = tuple[dict[str, float], dict[str, float]]  # {output: error}, {output: limit}


def _network_errors(engine: FileEngine, found: Sequence[Array], pixels: Array, model: EfficientDet) -> Errors:
    """Compare raw outputs with those in float64.

    A network that enlarges every rounding is not the runtime's fault: it is given as much as PyTorch itself needs.
    """
    exact = _outputs(copy.deepcopy(model).double(), pixels.astype(np.float64))
    names, least = engine.interface.output_names(engine.config), LIMITS[engine.interface.precision]
    errors = [error_of_rms(*pair) for pair in zip(found, exact, strict=True)]
    own = [error_of_rms(*pair) for pair in zip(_outputs(model, pixels), exact, strict=True)]
    limits = [max(least, OWN_ERRORS * error) for error in own]
    return dict(zip(names, errors, strict=True)), dict(zip(names, limits, strict=True))


def _detection_errors(engine: FileEngine, found: Sequence[Array], pixels: Array, model: EfficientDet) -> Errors:
    """Compare detections with those of the model's outputs."""
    outputs = [torch.from_numpy(array) for array in _outputs(model, pixels)]
    heads = outputs[: len(outputs) // 2], outputs[len(outputs) // 2 :]
    profile, config, precision = engine.profile, engine.config, engine.interface.precision
    assert profile is not None
    wanted = postprocess(*heads, make_anchors_yxyx(config), torch.ones(len(pixels)), config.image_size, profile)
    limits = {"scores": SCORE_LIMITS[precision], "boxes": BOX_LIMITS[precision] * max(pixels.shape[2:])}
    return detection_errors(found, [tensor.numpy() for tensor in wanted]), limits


def _outputs(model: EfficientDet, pixels: Array) -> list[Array]:
    """Return class logits and box deltas of all levels."""
    with torch.inference_mode():
        return [tensor.numpy() for head in model(torch.from_numpy(pixels)) for tensor in head]


def seeded_pixels(engine: FileEngine) -> Array:
    """Return a batch that the file takes, (B, 3, H, W) float32: normalised noise of whole pixel values, 0..255."""
    interface = engine.interface
    height, width = interface.image_size or (EXAMPLE_SIDE, EXAMPLE_SIDE)
    noise = np.random.default_rng(SEED).integers(0, 256, (interface.batch or 2, height, width, 3), np.uint8)
    pixels: Array = Normalization(engine.config)(torch.from_numpy(noise)).numpy()
    return pixels


def error_of_rms(found: Array, expected: Array) -> float:
    """Return max |found - expected| / rms(expected); infinite where a shape differs or a value is not finite."""
    if found.shape != expected.shape:
        return float("inf")
    difference = np.abs(found.astype(np.float64) - expected).max()
    error = float(difference / max(np.sqrt(np.mean(np.square(expected, dtype=np.float64))), 1e-12))
    return error if np.isfinite(error) else float("inf")


def detection_errors(found: Sequence[Array], expected: Sequence[Array]) -> dict[str, float]:
    """Return the largest difference of scores and of boxes, in pixels.

    Scores are compared rank by rank, which the order of nearly equal ones does not change. Every expected box is
    compared with the nearest one of its class and about its score; the last few may have been replaced by others of
    nearly the same score, so those within `SCORE_LIMITS` of the last score are left out.
    """
    boxes, scores, classes, _ = found
    if [array.shape for array in found] != [array.shape for array in expected]:
        return {"scores": float("inf"), "boxes": float("inf")}
    errors = {"scores": float(np.abs(scores - expected[1]).max()), "boxes": 0.0}
    near = SCORE_LIMITS["float16"]
    for image in range(len(boxes)):
        last = expected[1][image, -1] + 2 * SCORE_LIMITS["float32"]
        for box, score, number in zip(*(array[image] for array in expected[:3]), strict=True):
            if score <= max(last, 2 * SCORE_LIMITS["float32"]):
                continue
            same = (classes[image] == number) & (np.abs(scores[image] - score) < near)
            distances = np.abs(boxes[image][same] - box).max(axis=1)
            errors["boxes"] = max(errors["boxes"], float(distances.min()) if len(distances) else float("inf"))
    return {name: error if np.isfinite(error) else float("inf") for name, error in errors.items()}
