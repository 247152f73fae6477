"""What surrounds a network on the CPU, in NumPy; whatever the network runs in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import ConfigError, NonFiniteOutputError
from effdet_torch.geometry.anchors import anchors_yxyx
from effdet_torch.processing.numpy_postprocess import Detections, box_scale, postprocess
from effdet_torch.processing.numpy_preprocess import preprocess
from effdet_torch.processing.profiles import Profile
from effdet_torch.processing.sampling import scaled_size


class CpuProcessing:
    """Pre- and postprocessing for networks of one configuration."""

    def __init__(self, config: EfficientDetConfig) -> None:
        self._config = config

    def prepare(self, images: Sequence[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return images, arrays or tensors (height, width, 3), as network input (B, 3, H, W), and their scales."""
        return preprocess([as_array(image) for image in images], self._config)

    def detections(
        self, class_logits: Sequence[Any], box_deltas: Sequence[Any], image_scales: Any, profile: Profile
    ) -> list[Detections]:
        """Turn outputs, arrays or tensors of a batch per level, into the detections of every image.

        Raises:
            ConfigError: They are not those of a network with this configuration.
            NonFiniteOutputError: There is NaN or infinity among them.
        """
        logits, deltas = ([as_float32(level) for level in head] for head in (class_logits, box_deltas))
        channels = self._config.anchors_per_location * self._config.num_classes
        if wrong := {level.shape[1] for level in logits} - {channels}:
            raise ConfigError(
                f"the network returned {min(wrong)} class logits per location; expected {channels} for "
                f"{self._config.num_classes} classes, as its settings say; use the settings of this network"
            )
        anchors, size = anchors_yxyx(self._config), self._config.image_size
        images = zip(zip(*logits, strict=True), zip(*deltas, strict=True), as_array(image_scales), strict=True)
        found = list[Detections]()
        try:
            for own_logits, own_deltas, scale in images:
                found.append(postprocess(own_logits, own_deltas, anchors, scale, size, profile))
        except NonFiniteOutputError as error:
            raise error.at(len(found)) from error
        return found


def image_masks(mask_logits: Any, sizes: Sequence[tuple[int, int]], canvas_size: tuple[int, int]) -> list[NDArray[Any]]:
    """Return the class of every pixel of some images: that of the cell in which the pixel's centre lies.

    As in the official code, the class of a cell is the one with the largest logit.

    Args:
        mask_logits: (B, C, H_s, W_s), an array or a tensor on any device.
        sizes: (height, width) of the B original images.
        canvas_size: (height, width) of the network input, which an image fills from the top left corner.

    Returns:
        (height, width) each, uint8, or uint16 for more than 256 classes.

    Raises:
        NonFiniteOutputError: The largest logit of a cell is NaN or infinite; single others may be -inf.
    """
    dtype, classes = np.min_scalar_type(mask_logits.shape[1] - 1), _best_classes(mask_logits)
    if wrong := np.flatnonzero((classes < 0).any(axis=(1, 2))).tolist():
        raise NonFiniteOutputError(wrong[0])
    masks = []
    for cells, size in zip(classes.astype(dtype), sizes, strict=True):
        used = scaled_size(size, canvas_size)[:2]
        rows, columns = (
            (2 * np.arange(pixels) + 1) * (filled * count) // (2 * pixels * canvas)
            for pixels, filled, count, canvas in zip(size, used, cells.shape, canvas_size, strict=True)
        )
        masks.append(cells[rows[:, None], columns])
    return masks


def _best_classes(mask_logits: Any) -> NDArray[np.integer[Any]]:
    """Return the class of every cell (B, H_s, W_s) for logits (B, C, H_s, W_s); -1 where its logit is not finite."""
    if isinstance(mask_logits, np.ndarray):
        classes = mask_logits.argmax(axis=1)
        is_finite = np.isfinite(np.take_along_axis(mask_logits, classes[:, None], axis=1)[:, 0])
        return np.where(is_finite, classes, -1)
    highest, classes = mask_logits.max(dim=1)
    return as_array(classes.where(highest.isfinite(), -1))  # one copy from the device


class FileProcessing(CpuProcessing):
    """Preprocessing for files whose outputs are detections, which only have to be brought to original pixels."""

    def detections(
        self, class_logits: Sequence[Any], box_deltas: Sequence[Any], image_scales: Any, profile: Profile
    ) -> list[Detections]:
        """Turn outputs of a batch, ([boxes, scores], [classes, count]), into the detections of every image.

        Raises:
            ConfigError: A class is not one of the model's.
            NonFiniteOutputError: A box is NaN, or a score NaN or infinite. What the file itself left out is not seen.
        """
        if (highest := box_deltas[0].max(initial=0)) > self._config.num_classes:
            raise ConfigError(
                f"the file returned a detection of class {highest}; expected 1 to {self._config.num_classes}, as its "
                "metadata say. Export the model again with effdet-export."
            )
        columns = (*class_logits, *box_deltas, as_array(image_scales))
        found = [
            Detections(boxes[:count] * box_scale(scale), scores[:count], classes[:count])
            for boxes, scores, classes, count, scale in zip(*columns, strict=True)
        ]
        for place, one in enumerate(found):  # a box may be infinite where the network's output is finite
            if np.isnan(one.boxes_xyxy).any() or not np.isfinite(one.scores).all():
                raise NonFiniteOutputError(place)
        return found


def as_array(values: Any) -> NDArray[Any]:
    """Return an array, or a tensor as an array that shares its memory where it can."""
    return values if isinstance(values, np.ndarray) else np.asarray(values.detach().cpu())


def as_float32(values: Any) -> NDArray[np.float32]:
    """Return an array or a tensor as an array of float32: NumPy has no bfloat16, which torch's autocast gives."""
    return np.asarray(as_array(values if isinstance(values, np.ndarray) else values.float()), np.float32)
