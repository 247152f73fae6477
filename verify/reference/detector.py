"""The built-in reference before and after the network: pixels, boxes and detections by TensorFlow's own operations.

Like the reference of the network it shares nothing with the PyTorch side but the profile.

Source: the official code's `dataloader`, `anchors` and `postprocess`, 2025-03.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet_torch.errors import EvaluationError
from effdet_torch.metrics.coco import CocoResult
from effdet_torch.processing.profiles import Profile
from verify.reference.base import import_tensorflow
from verify.reference.official.hparams import Hparams

Array = NDArray[Any]
CLASS_OFFSET = 1
# To original pixels; or the scales of x and y, and width and height of the image in the network input.
ImageScale = float | tuple[float, float, float, float]


class ReferenceDetector:
    """Everything around the network.

    Args:
        hparams: of the model.
        profile: how detections are made.

    Raises:
        MissingDependencyError: TensorFlow is not installed.
    """

    def __init__(self, hparams: Hparams, profile: Profile) -> None:
        self._tf = import_tensorflow()
        self._hparams, self._profile = hparams, profile

    def pixels(self, encoded: bytes) -> tuple[Array, ImageScale]:
        """Return an image file as network input (1, H, W, 3) float32, and the scale to original pixels.

        Raises:
            EvaluationError: TensorFlow cannot decode the image.
        """
        tf, hparams = self._tf, self._hparams
        image = self._normalised(encoded)
        size, target = np.array(image.shape[:2], np.float32), np.array(hparams.image_size, np.float32)
        scale = (target / size).min()
        resized = tf.image.resize(image, [int(side * scale) for side in size])
        pixels = tf.image.pad_to_bounding_box(resized, 0, 0, *hparams.image_size)[None]
        if hparams.scale_range:  # of what is normalised and padded already
            pixels = pixels * 2 / 255 - 1
        return np.asarray(pixels), float(np.float32(1) / scale)

    def _normalised(self, encoded: bytes) -> Any:
        """Return an image file as a tensor (height, width, 3), minus mean, over standard deviation."""
        tf, hparams = self._tf, self._hparams
        try:
            is_jpeg = encoded[:2] == b"\xff\xd8"
            image = (
                tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
                if is_jpeg
                else tf.io.decode_image(encoded, channels=3, expand_animations=False)
            )
        except tf.errors.InvalidArgumentError as error:
            raise EvaluationError(f"TensorFlow cannot decode an image: {error}") from error
        return (tf.cast(image, tf.float32) - tf.constant(hparams.mean_rgb)) / tf.constant(hparams.stddev_rgb)

    def anchors_yxyx(self) -> Array:
        """Return the anchors of all levels, (A, 4) float32 in network pixels: level, y, x, octave, aspect ratio."""
        hparams, size, anchors = self._hparams, self._hparams.image_size, list[Array]()
        octaves = 2 ** (np.arange(hparams.num_scales) / hparams.num_scales)
        # (octave, aspect ratio, height and width): in units of scale x stride
        factors = octaves[:, None, None] * np.array(hparams.aspect_ratios)[:, ::-1]
        scales = hparams.anchor_scale * (len(hparams.levels) // len(hparams.anchor_scale))
        for level, scale in zip(hparams.levels, scales, strict=True):
            counts = [-(-side // 2**level) for side in size]
            strides = np.divide(size, counts)
            rows, columns = np.indices(counts)
            centres = (np.stack([rows, columns], axis=-1) + 0.5) * strides
            half = factors.reshape(-1, 2) * scale * strides / 2
            corners = [centres[:, :, None] - half, centres[:, :, None] + half]
            anchors.append(np.concatenate(corners, axis=-1).reshape(-1, 4))
        return np.concatenate(anchors).astype(np.float32)

    def boxes(self, box_deltas: Array, anchors_yxyx: Array) -> Array:
        """Decode deltas (A, 4) as (ty, tx, th, tw) into boxes_yxyx (A, 4) in network pixels."""
        tf = self._tf
        ymin, xmin, ymax, xmax = tf.unstack(tf.constant(anchors_yxyx), axis=1)
        ty, tx, th, tw = tf.unstack(tf.constant(box_deltas), axis=1)
        height, width = ymax - ymin, xmax - xmin
        y, x = ty * height + (ymin + ymax) / 2, tx * width + (xmin + xmax) / 2
        half_height, half_width = tf.exp(th) * height / 2, tf.exp(tw) * width / 2
        return np.asarray(tf.stack([y - half_height, x - half_width, y + half_height, x + half_width], axis=1))

    def detections(self, logits: Array, boxes_yxyx: Array, image_scale: ImageScale, image_id: int) -> list[CocoResult]:
        """Run NMS.

        Args:
            logits: (A, C).
            boxes_yxyx: (A, 4) in network pixels.
            image_scale: to original pixels.
            image_id: goes into the results.

        Returns:
            COCO's results format, best first.
        """
        anchors, classes = self._candidates(logits)
        boxes, scores = boxes_yxyx[anchors], self._tf.sigmoid(logits[anchors, classes]).numpy()
        groups = [np.nonzero(classes == c)[0] for c in np.unique(classes)] if self._profile.per_class else [slice(None)]
        most = self._profile.max_detections
        kept = [self._suppress(boxes[group], scores[group], classes[group], most) for group in groups]
        boxes, scores, classes = (np.concatenate(parts) for parts in zip(*kept, strict=True))
        best = self._tf.math.top_k(scores, min(len(scores), most)).indices.numpy()
        boxes = boxes[best] * _yxyx(image_scale)
        corners = np.concatenate([boxes[:, 1::-1], boxes[:, 3:1:-1] - boxes[:, 1::-1]], axis=1)
        return [
            {"image_id": image_id, "category_id": int(c) + CLASS_OFFSET, "bbox": box, "score": score}
            for c, box, score in zip(classes[best], corners.tolist(), scores[best].tolist(), strict=True)
        ]

    def _candidates(self, logits: Array) -> tuple[Array, Array]:
        """Return anchor indices (N,) and class channels (N,)."""
        if self._profile.candidates == "best_class":
            return np.arange(len(logits)), logits.argmax(axis=1)
        count = min(self._profile.max_candidates, logits.size)
        indices = self._tf.math.top_k(logits.reshape(-1), count).indices.numpy()
        return indices // logits.shape[1], indices % logits.shape[1]

    def _suppress(self, boxes_yxyx: Array, scores: Array, classes: Array, most: int) -> tuple[Array, Array, Array]:
        profile = self._profile
        kept = self._tf.raw_ops.NonMaxSuppressionV5(
            boxes=boxes_yxyx,
            scores=scores,
            max_output_size=most,
            iou_threshold=1.0 if profile.sigma > 0 else profile.iou_threshold,
            score_threshold=profile.score_threshold,
            soft_nms_sigma=profile.sigma / 2,
        )
        indices = kept.selected_indices.numpy()
        height, width = self._hparams.image_size
        boxes = boxes_yxyx[indices]
        boxes = np.clip(boxes, 0, np.array([height, width] * 2, boxes.dtype)) if profile.clip else boxes
        return boxes, kept.selected_scores.numpy(), classes[indices]


def _yxyx(image_scale: ImageScale) -> Array:
    """Return what corners are multiplied by."""
    return np.array(image_scale[1::-1] * 2 if isinstance(image_scale, tuple) else image_scale, np.float32)
