"""What surrounds a network on the CPU, in NumPy; whatever the network runs in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import ConfigError
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
        """
        logits, deltas = ([_as_float32(level) for level in head] for head in (class_logits, box_deltas))
        channels = self._config.anchors_per_location * self._config.num_classes
        if wrong := {level.shape[1] for level in logits} - {channels}:
            raise ConfigError(
                f"the network returned {min(wrong)} class logits per location; expected {channels} for "
                f"{self._config.num_classes} classes, as its settings say; use the settings of this network"
            )
        anchors, size = anchors_yxyx(self._config), self._config.image_size
        images = zip(zip(*logits, strict=True), zip(*deltas, strict=True), as_array(image_scales), strict=True)
        return [postprocess(*image[:2], anchors, image[2], size, profile) for image in images]


def image_masks(mask_logits: Any, sizes: Sequence[tuple[int, int]], canvas_size: tuple[int, int]) -> list[NDArray[Any]]:
    """Return the class of every pixel of some images: that of the cell in which the pixel's centre lies.

    As in the official code, the class of a cell is the one with the largest logit.

    Args:
        mask_logits: (B, C, H_s, W_s), an array or a tensor on any device.
        sizes: (height, width) of the B original images.
        canvas_size: (height, width) of the network input, which an image fills from the top left corner.

    Returns:
        (height, width) each, uint8, or uint16 for more than 256 classes.
    """
    dtype = np.min_scalar_type(mask_logits.shape[1] - 1)
    masks = []
    for cells, size in zip(as_array(mask_logits.argmax(1)).astype(dtype), sizes, strict=True):
        used = scaled_size(size, canvas_size)[:2]
        rows, columns = (
            (2 * np.arange(pixels) + 1) * (filled * count) // (2 * pixels * canvas)
            for pixels, filled, count, canvas in zip(size, used, cells.shape, canvas_size, strict=True)
        )
        masks.append(cells[rows[:, None], columns])
    return masks


class FileProcessing(CpuProcessing):
    """Preprocessing for files whose outputs are detections, which only have to be brought to original pixels."""

    def detections(
        self, class_logits: Sequence[Any], box_deltas: Sequence[Any], image_scales: Any, profile: Profile
    ) -> list[Detections]:
        """Turn outputs of a batch, ([boxes, scores], [classes, count]), into the detections of every image.

        Raises:
            ConfigError: A class is not one of the model's.
        """
        if (highest := box_deltas[0].max(initial=0)) > self._config.num_classes:
            raise ConfigError(
                f"the file returned a detection of class {highest}; expected 1 to {self._config.num_classes}, as its "
                "metadata say. Export the model again with effdet-export."
            )
        columns = (*class_logits, *box_deltas, as_array(image_scales))
        return [
            Detections(boxes[:count] * box_scale(scale), scores[:count], classes[:count])
            for boxes, scores, classes, count, scale in zip(*columns, strict=True)
        ]


def as_array(values: Any) -> NDArray[Any]:
    """Return an array, or a tensor as an array that shares its memory where it can."""
    return values if isinstance(values, np.ndarray) else np.asarray(values.detach().cpu())


def _as_float32(level: Any) -> NDArray[np.float32]:
    # NumPy has no bfloat16, which torch's autocast gives.
    return np.asarray(as_array(level if isinstance(level, np.ndarray) else level.float()), np.float32)
