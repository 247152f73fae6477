"""From image file to AP in stages, ours on the TensorFlow reference's own input: look where the first one fails."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from converter.conversion import Preparation
from converter.hparams.fields import hparams_of
from converter.identify.families import OBJECT_DETECTION_API
from converter.source import VariableSource
from effdet_torch.data.dataset import DataImage
from effdet_torch.engines.file_engine import FileEngine
from effdet_torch.file_format import config_origins
from effdet_torch.geometry.anchors import anchors_yxyx
from effdet_torch.geometry.numpy_boxes import decode_boxes_xyxy
from effdet_torch.inference.images import read_image
from effdet_torch.inference.predict import Predictor
from effdet_torch.metrics.coco import CocoResult, coco_metrics
from effdet_torch.processing.cpu import as_array
from effdet_torch.untrusted.files import MAX_IMAGE_BYTES, open_bytes
from verify.detections.matching import compare_detections
from verify.detections.run import Evaluation
from verify.errors import ParityError
from verify.reference.base import HeadOutputs, Reference
from verify.reference.detector import ReferenceDetector
from verify.reference.object_detection_api.detector import ApiDetector
from verify.reference.official.hparams import Hparams
from verify.results.detections import AP_TOLERANCE, MIN_MATCHED_SHARE, StageResult
from verify.subjects.references import build_reference, official_hparams, passed_hparams
from verify.subjects.subject import prepare_reference

Array = NDArray[Any]

# Stage -> what its error is, and its tolerance.
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


def compare_stages(evaluation: Evaluation, source: VariableSource) -> tuple[tuple[StageResult, ...], dict[str, Any]]:
    """Run the TensorFlow reference on the images of an evaluation and compare every stage.

    Args:
        evaluation: our side.
        source: the open checkpoint that the model was made from.

    Returns:
        The stages in order, and a description of the reference.

    Raises:
        ParityError: The checkpoint is another network's.
        MissingDependencyError: TensorFlow is not installed.
    """
    predictor, split = evaluation.predictor, evaluation.split
    if isinstance(predictor.engine, FileEngine) and predictor.engine.profile is not None:
        raise ParityError(
            f"{evaluation.path} returns detections, and the stages before them cannot be compared: pass the converted "
            "file that it was made from as --reference, or export it again without --nms"
        )
    preparation = prepare_reference(predictor.engine, source)
    reference = build_reference(preparation, "float32")
    detector_of = ApiDetector if preparation.family is OBJECT_DETECTION_API else ReferenceDetector
    detector = detector_of(_hparams(evaluation, preparation), predictor.profile)
    compared = [_compare(predictor, reference, detector, image) for image in split.images]
    expected = [result for _, results in compared for result in results]
    ap = coco_metrics(split.dataset, expected, split.image_ids, evaluation.evaluator.name)["AP"]
    stages = [_worst(stage, split.image_ids, [errors[stage] for errors, _ in compared]) for stage in compared[0][0]]
    measure, tolerance = STAGES["metric"]
    metric = StageResult("metric", measure, abs(evaluation.metrics["AP"] - ap), tolerance, None)
    return (*stages, metric), reference.describe()


def _hparams(evaluation: Evaluation, preparation: Preparation) -> Hparams:
    """Read the hyperparameters around the network from the checkpoint; from the model what only its file says."""
    config, size = evaluation.predictor.config, evaluation.settings.image_size
    if isinstance(evaluation.predictor.engine, FileEngine):
        size = config.image_size
    origins = config_origins(evaluation.metadata)
    passed = hparams_of(config) if not origins else passed_hparams(preparation, config, origins)
    if size is not None:  # the evaluation's own
        passed["image_size"] = size
    hparams = official_hparams(preparation, passed)
    if hparams.image_size != config.image_size:
        raise ParityError(
            "the model's image_size is {} x {}, the checkpoint's {} x {} (height x width): put the config.yaml of its "
            "training beside it, or choose the size with --image-size".format(*config.image_size, *hparams.image_size)
        )
    return hparams


def _worst(stage: str, image_ids: Sequence[int], errors: Sequence[float]) -> StageResult:
    """Return the largest error of a stage; one that is not a number is the largest."""
    error, image_id = max(zip(errors, image_ids, strict=True), key=lambda pair: (math.isnan(pair[0]), pair[0]))
    measure, tolerance = STAGES[stage]
    return StageResult(stage, measure, error, tolerance, image_id)


def _compare(
    predictor: Predictor, reference: Reference, detector: ReferenceDetector, image: DataImage
) -> tuple[dict[str, float], list[CocoResult]]:
    """Return the errors of the stages before the metric on one image, and what the reference detects."""
    pixels, _ = predictor.prepare([image.source], apply_exif=image.turned)
    expected_pixels, image_scale = detector.pixels(_encoded(image))
    outputs = reference.outputs(expected_pixels)
    boxes = detector.boxes(_flat(outputs.box_deltas, 4), detector.anchors_yxyx())
    logits = _flat(outputs.class_logits, predictor.config.num_classes)
    expected = detector.detections(logits, boxes, image_scale, image.image_id)
    found_boxes = decode_boxes_xyxy(_flat(outputs.box_deltas, 4), anchors_yxyx(predictor.config))
    class_maps, box_maps = (_maps(head, predictor.device) for head in (outputs.class_logits, outputs.box_deltas))
    (found,) = predictor.detections(class_maps, box_maps, torch.tensor([image_scale]))
    parity = compare_detections(found.to_coco(image.image_id), expected, [image.image_id], "reference")
    errors = {
        "pixels": float(np.abs(as_array(pixels)[0].transpose(1, 2, 0) - expected_pixels[0]).max()),
        "logits": _network_error(predictor, expected_pixels, outputs),
        "boxes": float(np.abs(found_boxes - boxes[:, [1, 0, 3, 2]]).max()),
        "NMS": 1 - parity.matched_share,
    }
    return errors, expected


def _encoded(image: DataImage) -> bytes:
    """Return an image file; one that is evaluated turned as PNG, because TensorFlow's decoder does not turn it."""
    if not image.turned:
        with open_bytes(image.source, MAX_IMAGE_BYTES) as stream:
            return stream.read()
    turned = BytesIO()
    Image.fromarray(read_image(image.source, apply_exif=True)).save(turned, "PNG")
    return turned.getvalue()


def _network_error(predictor: Predictor, pixels: Array, outputs: HeadOutputs) -> float:
    heads = predictor.engine(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    errors = [
        np.abs(as_array(found).transpose(0, 2, 3, 1) - expected).max() / np.sqrt(np.mean(np.square(expected)))
        for head, expected_head in zip(heads[:2], (outputs.class_logits, outputs.box_deltas), strict=True)
        for found, expected in zip(head, expected_head.values(), strict=True)
    ]
    return float(np.max(errors))


def _flat(levels: Mapping[int, Array], values: int) -> Array:
    """Bring outputs {level: (1, H, W, anchors * values)} into the order of the anchors, (A, values)."""
    return np.concatenate([level.reshape(-1, values) for level in levels.values()])


def _maps(levels: Mapping[int, Array], device: torch.device) -> list[Tensor]:
    """Bring outputs {level: (1, H, W, C)} into the form of the network's own, [(1, C, H, W)]."""
    return [torch.tensor(level, device=device).permute(0, 3, 1, 2) for level in levels.values()]
