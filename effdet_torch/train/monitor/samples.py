"""Images of a training with their boxes: as the network sees them, as they are annotated, and as they are found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from effdet_torch.config import SCORE_THRESHOLD, EfficientDetConfig
from effdet_torch.data.dataset import DataImage, DataObject, DataSet
from effdet_torch.inference.images import read_image
from effdet_torch.metrics.columns import CocoResult
from effdet_torch.train.input.loader import Batch
from effdet_torch.train.run.pictures import MOST, Boxes, Sample, grid_png, training_png, validation_png

Objects = dict[int, list[DataObject]]


def trained_png(batch: Batch, data: DataSet, config: EfficientDetConfig) -> bytes:
    """Return a PNG of a batch as the network sees it."""
    names = {image.image_id: image.name for image in data.images}
    boxes = [Boxes(rows.tolist(), labels.tolist()) for rows, labels in zip(batch.boxes_xyxy, batch.labels, strict=True)]
    captions = [names[image_id] for image_id in batch.image_ids]
    return training_png(batch.images.numpy(), boxes, captions, data.categories, config)


def annotated_png(data: DataSet) -> bytes:
    """Return a PNG of images with their annotations."""
    objects = _objects(data)
    samples = [
        Sample(read_image(image.source, apply_exif=image.turned), image.name, _truth(objects.get(image.image_id, ())))
        for image in spread(data, objects)
    ]
    return grid_png(samples, data.categories)


def found_png(data: DataSet, results: Iterable[CocoResult]) -> bytes:
    """Return a PNG of images with their annotations beside the detections that a user would be shown."""
    objects, found = _objects(data), dict[int, list[CocoResult]]()
    for result in results:
        if result["score"] >= SCORE_THRESHOLD:
            found.setdefault(result["image_id"], []).append(result)
    images = spread(data, objects)
    return validation_png(
        [read_image(image.source, apply_exif=image.turned) for image in images],
        [_truth(objects.get(image.image_id, ())) for image in images],
        [_detected(found.get(image.image_id, ())) for image in images],
        [image.name for image in images],
        data.categories,
    )


def spread(data: DataSet, objects: Objects) -> list[DataImage]:
    """Return at most `MOST` images from all over a data set; with boxes as long as there are such."""
    images = [image for image in data.images if image.image_id in objects] or list(data.images)
    count = min(MOST, len(images))
    return [images[position * len(images) // count] for position in range(count)]


def _objects(data: DataSet) -> Objects:
    objects: Objects = {}
    for item in data.objects:
        objects.setdefault(item.image_id, []).append(item)
    return objects


def _truth(objects: Sequence[DataObject]) -> Boxes:
    return Boxes([_corners(item.bbox) for item in objects], [item.category_id for item in objects])


def _detected(results: Sequence[CocoResult]) -> Boxes:
    return Boxes(
        [_corners(row["bbox"]) for row in results],
        [row["category_id"] for row in results],
        [row["score"] for row in results],
    )


def _corners(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    x, y, width, height = bbox
    return x, y, x + width, y + height
