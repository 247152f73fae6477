"""Before and after the network as the API does it, by TensorFlow's own operations.

Source: the API's `preprocessor.resize_to_range` and `post_processing.multiclass_non_max_suppression`.
"""

from __future__ import annotations

import numpy as np

from effdet_torch.metrics.coco import CocoResult
from verify.reference.detector import CLASS_OFFSET, Array, ImageScale, ReferenceDetector


class ApiDetector(ReferenceDetector):
    """Everything around the network of the API."""

    def pixels(self, encoded: bytes) -> tuple[Array, ImageScale]:
        """Return an image file as network input (1, H, W, 3) float32; the scales of x and y, width and height in it.

        Raises:
            EvaluationError: TensorFlow cannot decode the image.
        """
        tf, size = self._tf, self._hparams.image_size
        image = self._normalised(encoded)
        resized = tf.compat.v1.image.resize_images(image, size, preserve_aspect_ratio=True)
        height, width = resized.shape[:2]
        pixels = tf.image.pad_to_bounding_box(resized, 0, 0, *size)[None]
        return np.asarray(pixels), (image.shape[1] / width, image.shape[0] / height, width, height)

    def detections(self, logits: Array, boxes_yxyx: Array, image_scale: ImageScale, image_id: int) -> list[CocoResult]:
        """Suppress as the profile says; the API's clips to the image, and leaves out what has no area there."""
        if not isinstance(image_scale, tuple) or not self._profile.to_image:
            return super().detections(logits, boxes_yxyx, image_scale, image_id)
        x_scale, y_scale, width, height = image_scale
        anchors, classes = self._candidates(logits)
        boxes, scores = boxes_yxyx[anchors], self._tf.sigmoid(logits[anchors, classes]).numpy()
        groups = [np.nonzero(classes == number)[0] for number in np.unique(classes)]
        most = self._profile.max_per_class or self._profile.max_detections
        kept = [self._suppress(boxes[group], scores[group], classes[group], most) for group in groups]
        boxes, scores, classes = (np.concatenate(parts) for parts in zip(*kept, strict=True))
        boxes = np.clip(boxes, 0, np.array([height, width] * 2, boxes.dtype))
        order = np.argsort(-scores, kind="stable")
        order = order[np.prod(boxes[order, 2:] - boxes[order, :2], axis=1) != 0][: self._profile.max_detections]
        boxes = boxes[order] * np.array([y_scale, x_scale] * 2, np.float32)
        corners = np.concatenate([boxes[:, 1::-1], boxes[:, 3:1:-1] - boxes[:, 1::-1]], axis=1)
        return [
            {"image_id": image_id, "category_id": int(number) + CLASS_OFFSET, "bbox": box, "score": score}
            for number, box, score in zip(classes[order], corners.tolist(), scores[order].tolist(), strict=True)
        ]
