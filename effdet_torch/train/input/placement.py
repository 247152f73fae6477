"""An image and its boxes on the canvas: mirrored, scaled, cropped and padded with the official arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig, Resize
from effdet_torch.processing.numpy_preprocess import axis, resample
from effdet_torch.processing.sampling import scaled_size
from effdet_torch.train.input.example import Boxes, Pixels, View

Size = tuple[int, int]  # (height, width) in pixels


@dataclass(frozen=True)
class Placement:
    """Where an image lies.

    Attributes:
        output: size of the canvas.
        scaled: size of the whole image after scaling.
        offset: (y, x) of the canvas in the scaled image, in pixels.
        flip: whether the image is mirrored first.
    """

    output: Size
    scaled: Size
    offset: tuple[int, int]
    flip: bool

    @classmethod
    def of(
        cls, size: Size, view: View, output: Size, target: Size | None = None, resize: Resize = "half_pixel"
    ) -> Placement:
        """Return where an image of a size lies.

        Args:
            size: of the image.
            view: see `View`.
            output: size of the canvas.
            target: size that `view.scale` scales; None is that of the canvas.
            resize: see `EfficientDetConfig`.
        """
        fitted = [max(1, int(np.float32(view.scale) * np.float32(side))) for side in target or output]
        height, width, _ = scaled_size(size, (fitted[0], fitted[1]), resize)
        spare = max(0, height - output[0]), max(0, width - output[1])
        y, x = (int(np.float32(side) * np.float32(share)) for side, share in zip(spare, view.offsets, strict=True))
        return cls(output, (height, width), (y, x), view.flip)

    def draw(
        self, image: Pixels, canvas: NDArray[np.float32], empty: NDArray[np.float32], config: EfficientDetConfig
    ) -> None:
        """Normalise an image and write what is visible of it to a canvas.

        Args:
            image: (height, width, 3).
            canvas: (3, H, W), overwritten.
            empty: (3, 1, 1), the normalised colour beside the image.
            config: supplies the normalization and how images are resized.
        """
        height, width = (min(pair) for pair in zip(self.output, self.scaled, strict=True))
        y = axis(image.shape[0], self.scaled[0], self.offset[0], height, resize=config.resize)
        x = axis(image.shape[1], self.scaled[1], self.offset[1], width, self.flip, config.resize)
        resample(image, canvas[:, :height, :width], y, x, config)
        canvas[:, height:] = empty
        canvas[:, :height, width:] = empty

    def boxes(self, fractions: Boxes) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return boxes on the canvas.

        They are clipped to the canvas less one pixel, not to the image, and every box that has an area is kept.

        Args:
            fractions: (N, 4), (ymin, xmin, ymax, xmax) as fractions of the image.

        Returns:
            (M, 4) float32, (xmin, ymin, xmax, ymax) in pixels of the canvas, and (N,), which boxes these are.
        """
        y, x = fractions[:, 0::2], fractions[:, 1::2]
        x = np.float32(1) - x[:, ::-1] if self.flip else x
        y = np.clip(y * np.float32(self.scaled[0]) - np.float32(self.offset[0]), 0, self.output[0] - 1)
        x = np.clip(x * np.float32(self.scaled[1]) - np.float32(self.offset[1]), 0, self.output[1] - 1)
        kept = (y[:, 1] - y[:, 0]) * (x[:, 1] - x[:, 0]) != 0
        corners = np.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), axis=1)
        return corners[kept].astype(np.float32), kept
