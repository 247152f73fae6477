"""Detect objects in the images of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from effdet_torch.data.dataset import DataImage
from effdet_torch.inference.images import ImageError
from effdet_torch.inference.predict import Predictor
from effdet_torch.metrics.columns import CocoResult


def detect_data(
    predictor: Predictor, images: Sequence[DataImage], batch: int, workers: int
) -> Iterator[tuple[DataImage, list[CocoResult]]]:
    """Detect in images, each in the frame that its annotations refer to: COCO's is that of the stored pixels.

    Args:
        predictor: with the model.
        images: each is detected in once; those whose frame is turned come last.
        batch: images per step.
        workers: processes that read images; 0 does it in this one.

    Yields:
        Every image and its detections, best first.

    Raises:
        ImageError: An image cannot be read.
    """
    for turned in (False, True):
        chosen = [image for image in images if image.turned == turned]
        if not chosen:
            continue
        sources = [image.source for image in chosen]
        results = predictor.stream(sources, batch, workers=workers, apply_exif=turned)
        for image, result in zip(chosen, results, strict=True):
            if isinstance(result, ImageError):
                raise result
            yield image, result[1].to_coco(image.image_id)
