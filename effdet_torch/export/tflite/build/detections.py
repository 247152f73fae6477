"""From what the heads predict to detections, by TensorFlow Lite's own operation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig
from effdet_torch.export.tflite.build.operations import NO_ACTIVATION, Operations
from effdet_torch.export.tflite.graph import Operation, Tensor
from effdet_torch.geometry.anchors import anchors_yxyx
from effdet_torch.network.heads import BOX_COORDINATES
from effdet_torch.processing.profiles import Profile

POSTPROCESS = "TFLite_Detection_PostProcess"


def add_detections(
    graph: Operations, config: EfficientDetConfig, profile: Profile, logits: Sequence[Tensor], deltas: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Add the decoding of boxes and their suppression.

    Args:
        graph: to add them to.
        config: of the model, with the image size of the file.
        profile: what the operation does; see `litert_profile`.
        logits: [(1, H_l, W_l, anchors * classes)], fine to coarse.
        deltas: [(1, H_l, W_l, anchors * 4)], fine to coarse.

    Returns:
        boxes: (1, N, 4) as (ymin, xmin, ymax, xmax), of the image's size, not clipped.
        classes: (1, N), counted from 0.
        scores: (1, N).
        count: (1,), how many of the N are detections.
    """
    flat_logits = _joined(graph, logits, config.num_classes)
    scores = graph.add("LOGISTIC", (flat_logits,), flat_logits.shape, "Sigmoid")
    anchors = graph.constant("stack", anchors_yxhw(config))
    inputs = _joined(graph, deltas, BOX_COORDINATES), scores, anchors
    shapes = (1, profile.max_detections, 4), (1, profile.max_detections), (1, profile.max_detections), (1,)
    outputs = tuple(Tensor("detections", shape, np.dtype(np.float32)) for shape in shapes)
    options = {
        "max_detections": profile.max_detections,
        "max_classes_per_detection": 1,
        "num_classes": config.num_classes,
        "nms_score_threshold": profile.score_threshold,
        "nms_iou_threshold": profile.iou_threshold,
        **dict.fromkeys(("y_scale", "x_scale", "h_scale", "w_scale"), 1.0),
        "use_regular_nms": 0,
    }
    graph.operations.append(Operation(POSTPROCESS, inputs, outputs, options))
    return outputs


def anchors_yxhw(config: EfficientDetConfig) -> NDArray[np.float32]:
    """Return the anchors as (y, x, height, width) of their centres, (A, 4), in units of the image's sides."""
    corners, size = anchors_yxyx(config).astype(np.float64), np.array(config.image_size)
    low, high = corners[:, :2], corners[:, 2:]
    return np.concatenate([(low + high) / 2 / size, (high - low) / size], axis=1).astype(np.float32)


def _joined(graph: Operations, levels: Sequence[Tensor], outputs: int) -> Tensor:
    """Add (1, A, outputs), all anchors of all levels."""
    shape, rows = graph.shared("Reshape/shape", np.array([1, -1, outputs], np.int32)), []
    for x in levels:
        count = int(np.prod(x.shape)) // outputs
        rows.append(graph.add("RESHAPE", (x, shape), (1, count, outputs), "Reshape"))
    whole = (1, sum(row.shape[1] for row in rows), outputs)
    return graph.add("CONCATENATION", rows, whole, "concat", axis=1, fusedActivationFunction=NO_ACTIVATION)
