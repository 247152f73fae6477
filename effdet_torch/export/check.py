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
from torch.utils._pytree import tree_leaves

from effdet_torch.engines.document import Precision, by_head
from effdet_torch.engines.file_engine import Array, FileEngine
from effdet_torch.errors import EffdetError
from effdet_torch.export.detector import Normalization
from effdet_torch.export.nms_replay import ROUNDING, Limits, replayed
from effdet_torch.export.writers.program import EXAMPLE_SIDE
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.geometry.boxes import clip_boxes_xyxy, decode_boxes_xyxy
from effdet_torch.network.model import EfficientDet
from effdet_torch.processing.postprocess import flatten_levels, postprocess
from effdet_torch.processing.profiles import Profile

SEED = 0
# Largest error of an output, of the rms of that output. float32: sums in another order differ by 1e-5 to 3e-4; a wrong
# kernel, weight or padding by more than 1e-2. float16 has a mantissa of 10 bits, and errors add up over 80 layers. With
# codes of 8 bits single values are far off, so the rms of all errors of an output counts: up to 0.15 was seen.
LIMITS: Mapping[Precision, float] = {"float32": 1e-3, "float16": 1e-1, "int8": 0.4}
OWN_ERRORS = 10  # times the error of PyTorch in float32 is no fault of a runtime either
# Detections: of the scores, where 1e-3 is the threshold that one of them may just pass; and of the boxes, in units of
# the longer side of the image, or of the box if that is larger.
SCORE_LIMITS: Mapping[Precision, float] = {"float32": 2e-3, "float16": 5e-2, "int8": 1e-1}
BOX_LIMITS: Mapping[Precision, float] = {"float32": 1e-3, "float16": 5e-2, "int8": 1e-1}
OTHER_RUNTIME = "Use another format or another version of the runtime"
NEXT_STEPS: Mapping[Precision, str] = {
    "int8": "Calibrate with more photos like those that the model was trained on, or pass --float16"
}
ORDERING = "the order of detections"
UNITS = {  # of errors; of others the rms
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
    """

    runtime: str
    error: float
    limit: float
    where: str
    detections: int | None = None
    otherwise: int = 0
    margin: float = 0.0

    def __str__(self) -> str:
        if self.detections == 0:
            return f"{self.runtime}: no detections in the noise it was given, nor from MODEL: no box was compared"
        text = f"{self.runtime}: largest error {self.error:.1e} {_unit(self.where)}, limit {self.limit:.0e}"
        if not self.otherwise:
            return text
        equal = f"where scores are equal to {max(self.margin, ROUNDING):.0e}, or an overlap to the threshold"
        return f"{text}; {self.otherwise} of {self.detections} detections chosen otherwise, {equal}"


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
        errors, limits = _network_errors(engine, found, pixels, model)
        otherwise, margin = 0, 0.0
    else:
        errors, limits, otherwise, margin = _detection_errors(engine, engine.profile, found, pixels, model)
    wrong = [name for name in errors if not errors[name] <= limits[name]]
    where = max(wrong or errors.keys() - {ORDERING}, key=lambda name: (errors[name] / limits[name], name))
    if wrong:
        raise EffdetError(
            f"the exported file is wrong: run by {engine.runtime}, {where} differs by {errors[where]:.3g} "
            f"{_unit(where)}, limit {limits[where]:.0e} ({len(wrong)} of {len(errors)} outputs differ); nothing was "
            f"kept. {NEXT_STEPS.get(engine.interface.precision, OTHER_RUNTIME)}"
        )
    detections = None if engine.profile is None else int(found[3].sum())
    return Checked(engine.runtime, errors[where], limits[where], where, detections, otherwise, margin)


def _unit(output: str) -> str:
    return UNITS.get(output, f"of the rms of {output}")


Errors = tuple[dict[str, float], dict[str, float]]  # {output: error}, {output: limit}


def _network_errors(engine: FileEngine, found: Sequence[Array], pixels: Array, model: EfficientDet) -> Errors:
    """Compare raw outputs with those in float64.

    A network that enlarges every rounding is not the runtime's fault: it is given as much as PyTorch itself needs.
    """
    exact = _outputs(copy.deepcopy(model).double(), pixels.astype(np.float64))
    names, least = engine.interface.output_names(engine.config), LIMITS[engine.interface.precision]
    measure = rms_error if engine.interface.precision == "int8" else error_of_rms
    errors = [measure(*pair) for pair in zip(found, exact, strict=True)]
    own = [error_of_rms(*pair) for pair in zip(_outputs(model, pixels), exact, strict=True)]
    limits = [max(least, OWN_ERRORS * error) for error in own]
    return dict(zip(names, errors, strict=True)), dict(zip(names, limits, strict=True))


def _detection_errors(
    engine: FileEngine, profile: Profile, found: Sequence[Array], pixels: Array, model: EfficientDet
) -> tuple[dict[str, float], dict[str, float], int, float]:
    """Compare detections with those of the model's outputs; also return `otherwise` and `margin` of `Checked`.

    In float32 the NMS is done again, see `replayed`; with fewer bits, scores of the same rank are compared.
    """
    logits, deltas = by_head([torch.from_numpy(array) for array in _outputs(model, pixels)], model.config)
    config, precision = engine.config, engine.interface.precision
    anchors = make_anchors_yxyx(config)
    wanted = postprocess(logits, deltas, anchors, torch.ones(len(pixels)), config.image_size, profile)
    corners = decode_boxes_xyxy(flatten_levels(deltas, 4), anchors)
    shown = (clip_boxes_xyxy(corners, config.image_size) if profile.clip else corners).numpy()
    all_scores = flatten_levels(logits, config.num_classes).sigmoid().numpy()
    limits = {"scores": SCORE_LIMITS[precision], "boxes": BOX_LIMITS[precision]}
    expected = [tensor.numpy() for tensor in wanted[:4]]
    errors = {
        "scores": _score_error(found, expected),
        "boxes": box_error(found, shown, all_scores, max(config.image_size), SCORE_LIMITS[precision]),
    }
    if precision != "float32" or profile.selects_further:
        return errors, limits, 0, 0.0
    most = Limits(limits["scores"], limits["boxes"], max(config.image_size))
    choices = []
    for place, count in enumerate(found[3]):
        image = [array[place][: int(count)] for array in found[:3]]
        choices.append(replayed(image, corners[place].numpy(), shown[place], all_scores[place], profile, most))
    errors["scores"] = max(choice.score_error for choice in choices)
    worst = max(choices, key=lambda choice: choice.margin - choice.limit)
    errors[ORDERING], limits[ORDERING] = worst.margin, worst.limit
    return errors, limits, _chosen_otherwise(found, expected, most), worst.margin


def _chosen_otherwise(found: Sequence[Array], expected: Sequence[Array], limits: Limits) -> int:
    """Return how many detections of a file are not among the expected ones."""
    others = 0
    for place, count in enumerate(found[3]):
        mine, theirs = ([array[place] for array in side[:3]] for side in (found, expected))
        near = np.abs(mine[0][: int(count), None] - theirs[0][None]).max(axis=2) <= limits.box * limits.side
        alike = np.abs(mine[1][: int(count), None] - theirs[1][None]) <= limits.score
        others += int((~(near & alike & (mine[2][: int(count), None] == theirs[2][None])).any(axis=1)).sum())
    return others


def _outputs(model: EfficientDet, pixels: Array) -> list[Array]:
    """Return what the heads predict, in the order of `Interface.output_names`.

    Raises:
        EffdetError: There is NaN or infinity among them, which no file can be compared with.
    """
    with torch.inference_mode():
        outputs = [tensor.numpy() for tensor in tree_leaves(model(torch.from_numpy(pixels)))]
    if not all(np.isfinite(output).all() for output in outputs):
        raise EffdetError(
            "MODEL itself returns NaN or infinity for noise, so the exported file cannot be checked; nothing was kept. "
            "Look for such values in its weights"
        )
    return outputs


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


def rms_error(found: Array, expected: Array) -> float:
    """Return rms(found - expected) / rms(expected); infinite where a shape differs or a value is not finite."""
    if found.shape != expected.shape:
        return float("inf")
    squares = (np.mean(np.square(values, dtype=np.float64)) for values in (found - expected, expected))
    error = float(np.sqrt(next(squares) / max(next(squares), 1e-24)))
    return error if np.isfinite(error) else float("inf")


def _score_error(found: Sequence[Array], expected: Sequence[Array]) -> float:
    """Return the largest difference of two scores of the same rank, which equals that change places do not change."""
    if [array.shape for array in found] != [array.shape for array in expected]:
        return float("inf")
    error = float(np.abs(found[1] - expected[1]).max())
    return error if np.isfinite(error) else float("inf")


def box_error(found: Sequence[Array], boxes: Array, scores: Array, side: int, tolerance: float) -> float:
    """Return how far a detection is from the nearest box that the model predicts for its class.

    Equals may come out in any order, and one of two equals may be left out, so a detection is not compared with that of
    the same rank, but with every box that scores as much before the NMS, which only lowers scores.

    Args:
        found: boxes (B, M, 4), scores (B, M), classes (B, M) counted from 1, and their number (B,).
        boxes: (B, A, 4), of all anchors.
        scores: (B, A, C), of all anchors.
        side: the longer side of the image, in pixels.
        tolerance: of a score.

    Returns:
        The largest distance of all, in units of `side`, or of the box's longer side if that is larger.
    """
    errors = [0.0]
    for image, count in enumerate(found[3]):
        rows = zip(*(array[image][: int(count)] for array in found[:3]), strict=True)
        for box, score, number in rows:
            if not 1 <= number <= scores.shape[2]:
                return float("inf")
            able = boxes[image][scores[image, :, number - 1] >= score - tolerance]
            unit = max(side, float(box[2] - box[0]), float(box[3] - box[1]))
            errors.append(float(np.abs(able - box).max(axis=1).min()) / unit if len(able) else float("inf"))
    return float("inf") if np.isnan(errors).any() else max(errors)
