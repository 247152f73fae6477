"""From image file to AP in stages, ours on the TensorFlow reference's own input: the first that fails is to blame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from converter.source import VariableSource
from effdet_torch.data.coco_dataset import CocoImage, CocoImages
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.geometry.boxes import decode_boxes_xyxy, yxyx_to_xyxy
from effdet_torch.inference.postprocess import Profile, get_profile, postprocess
from effdet_torch.metrics.coco_metrics import CocoResult, coco_metrics
from effdet_torch.network.model import EfficientDet
from verify.detection_results import AP_TOLERANCE, MIN_MATCHED_SHARE, StageResult
from verify.detections.matching import compare_detections
from verify.detections.run import Evaluation, to_coco
from verify.reference.base import HeadOutputs, Reference
from verify.reference.detector import ReferenceDetector
from verify.subjects.references import build_reference
from verify.subjects.subject import prepare_reference

Array = NDArray[Any]

# Stage -> what its error is, and what it may be.
STAGES: Mapping[str, tuple[str, float]] = {
    # The rounding of the resize on values of a few units.
    "pixels": ("largest difference of a normalised pixel", 1e-4),
    # Constant padding of real images: float32 itself is 3e-4 away from float64 there.
    "logits": ("largest difference of an output over the rms of its level", 1e-3),
    # exp() of a delta for boxes of some hundred pixels.
    "boxes": ("largest difference of a coordinate in network pixels", 0.01),
    "NMS": ("share of detections without a counterpart", 1 - MIN_MATCHED_SHARE),
    "metric": ("difference of the AP of all stages together", AP_TOLERANCE),
}


class ImageErrors(NamedTuple):
    """One image: the errors of the stages before the metric, and what the reference detects."""

    errors: dict[str, float]
    expected: list[CocoResult]


def compare_stages(
    evaluation: Evaluation, source: VariableSource, profile: str
) -> tuple[tuple[StageResult, ...], dict[str, Any]]:
    """Run the TensorFlow reference on the images of an evaluation and compare every stage.

    Args:
        evaluation: what our side gave.
        source: the open checkpoint that the model was made from.
        profile: name of the postprocessing profile of the evaluation.

    Returns:
        The stages in order, and a description of the reference.

    Raises:
        ParityError: The checkpoint is another network's.
        MissingDependencyError: TensorFlow is not installed.
    """
    model, split = evaluation.model, evaluation.split
    reference = build_reference(prepare_reference(model, source), "built-in", "float32")
    stages = Stages(model, reference, get_profile(profile))
    images = {image.image_id: stages.compare(image) for image in split.images}
    expected = [result for image in images.values() for result in image.expected]
    ap = coco_metrics(split.dataset, expected, split.image_ids)["AP"]
    results = [*_worst({image_id: image.errors for image_id, image in images.items()})]
    results.append(StageResult("metric", *_bounded("metric", abs(evaluation.metrics["AP"] - ap)), None))
    return tuple(results), reference.describe()


def _worst(errors: Mapping[int, Mapping[str, float]]) -> Iterator[StageResult]:
    for stage in STAGES:
        if stage != "metric":
            worst = max(errors, key=lambda image_id: errors[image_id][stage])
            yield StageResult(stage, *_bounded(stage, errors[worst][stage]), worst)


def _bounded(stage: str, error: float) -> tuple[str, float, float]:
    measure, tolerance = STAGES[stage]
    return measure, error, tolerance


class Stages:
    """Both sides, ready for one image after another.

    Args:
        model: ours, in eval mode.
        reference: the TensorFlow network.
        profile: of the postprocessing.
    """

    def __init__(self, model: EfficientDet, reference: Reference, profile: Profile) -> None:
        self._model, self._reference, self._profile = model, reference, profile
        self._detector = ReferenceDetector(model.config, profile)
        self._anchors_yxyx = make_anchors_yxyx(model.config)
        self._device = next(model.parameters()).device

    @torch.inference_mode()
    def compare(self, image: CocoImage) -> ImageErrors:
        """Compare the stages on one image."""
        _, pixels, _ = CocoImages([image], self._model.config)[0]
        expected_pixels, image_scale = self._detector.pixels(image.path.read_bytes())
        outputs = self._reference.outputs(expected_pixels)
        boxes = self._detector.boxes(_flat(outputs.box_deltas, 4), self._anchors_yxyx.numpy())
        logits = _flat(outputs.class_logits, self._model.config.num_classes)
        expected = self._detector.detections(logits, boxes, image_scale, image.image_id)
        found_boxes = decode_boxes_xyxy(torch.tensor(_flat(outputs.box_deltas, 4)), self._anchors_yxyx)
        errors = {
            "pixels": float(np.abs(pixels.permute(1, 2, 0).numpy() - expected_pixels[0]).max()),
            "logits": self._network_error(expected_pixels, outputs),
            "boxes": float((found_boxes - yxyx_to_xyxy(torch.tensor(boxes))).abs().max()),
            "NMS": self._unmatched(outputs, image_scale, expected, image.image_id),
        }
        return ImageErrors(errors, expected)

    def _network_error(self, pixels: Array, outputs: HeadOutputs) -> float:
        heads = self._model(torch.tensor(pixels).permute(0, 3, 1, 2).contiguous().to(self._device))
        errors = [
            np.abs(found.permute(0, 2, 3, 1).cpu().numpy() - expected).max() / np.sqrt(np.mean(np.square(expected)))
            for head, expected_head in zip(heads, (outputs.class_logits, outputs.box_deltas), strict=True)
            for found, expected in zip(head, expected_head.values(), strict=True)
        ]
        return float(np.max(errors))

    def _unmatched(self, outputs: HeadOutputs, image_scale: float, expected: list[CocoResult], image_id: int) -> float:
        """Return the share that our postprocessing detects differently from the reference's own outputs."""
        class_logits, box_deltas = (
            [torch.tensor(level).permute(0, 3, 1, 2) for level in head.values()]
            for head in (outputs.class_logits, outputs.box_deltas)
        )
        scales = torch.tensor([image_scale], dtype=torch.float32)
        size = self._model.config.image_size
        found = postprocess(class_logits, box_deltas, self._anchors_yxyx, scales, size, self._profile)
        results = to_coco([image_id], found)[image_id]
        return 1 - compare_detections(results, expected, [image_id], "reference").matched_share


def _flat(levels: Mapping[int, Array], values: int) -> Array:
    """Bring outputs {level: (1, H, W, anchors * values)} into the order of the anchors, (A, values)."""
    return np.concatenate([level.reshape(-1, values) for level in levels.values()])
