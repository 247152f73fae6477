"""Images in, detections out: reading, preprocessing, network and postprocessing in one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from effdet_torch.errors import ConfigError
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.geometry.boxes import xyxy_to_xywh
from effdet_torch.inference.images import ImageError, image_to_rgb, read_image
from effdet_torch.inference.labels import category_name, default_label_map
from effdet_torch.inference.postprocess import Detections, Profile, get_profile, postprocess
from effdet_torch.inference.preprocess import RgbImage, preprocess
from effdet_torch.network.checkpoint import load_model
from effdet_torch.network.model import EfficientDet

ImageSource = str | Path | Image.Image | NDArray[np.uint8] | Tensor


@dataclass(frozen=True)
class ImageDetections:
    """What was found in one image, best first; tensors are on the CPU.

    Attributes:
        boxes_xyxy: (N, 4) float32 as (xmin, ymin, xmax, ymax) in pixels of the original image.
        scores: (N,) float32, 0..1.
        category_ids: (N,) int64, class channel + 1: COCO's ids for the official models.
        names: of the N categories.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    category_ids: Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """Return the detections as entries of a COCO results file; `bbox` is (xmin, ymin, width, height)."""
        rows = zip(
            self.category_ids.tolist(), xyxy_to_xywh(self.boxes_xyxy).tolist(), self.scores.tolist(), strict=True
        )
        return [
            {"image_id": image_id, "category_id": category_id, "bbox": box_xywh, "score": score}
            for category_id, box_xywh, score in rows
        ]


class Predictor:
    """An EfficientDet with everything around it.

    On the CPU every image goes through the network alone: kernels round differently for other batch sizes (1e-6 in the
    scores, enough to swap equals), and so the result for an image does not depend on its company. Batches are hardly
    faster there.

    Args:
        model: a converted file, or a model, which is then moved to `device` and switched to eval mode.
        profile: how detections are made; a name in `effdet_torch.inference.postprocess.PROFILES`, or your own.
        device: where the network runs; by default where `model` is, and for a file the GPU if there is one.
        score_threshold: detections below it are left out, 0..1.
        autocast: run the network in torch's mixed precision of the device.
        channels_last: run the network on NHWC memory; often faster.
        label_map: {category id: name}; by default COCO's for 90 classes, otherwise names are "class 7".

    Raises:
        ConfigError: The profile does not exist, the device cannot be used or the threshold is not in 0..1.
        ModelFileError: The model file cannot be read.
    """

    def __init__(
        self,
        model: EfficientDet | str | Path,
        *,
        profile: str | Profile = "serving",
        device: torch.device | str | None = None,
        score_threshold: float = 0.0,
        autocast: bool = False,
        channels_last: bool = False,
        label_map: Mapping[int, str] | None = None,
    ) -> None:
        if not 0 <= score_threshold <= 1:
            raise ConfigError(f"score_threshold is {score_threshold}; expected 0 to 1")
        self.profile = get_profile(profile)
        self.score_threshold = score_threshold
        self.autocast = autocast
        self.device = _usable_device(_default_device(model) if device is None else device)
        self.model = (load_model(model) if isinstance(model, (str, Path)) else model).to(self.device)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.label_map = default_label_map(self.model.config.num_classes) if label_map is None else label_map
        self.anchors_yxyx = make_anchors_yxyx(self.model.config, self.device)

    def __call__(self, images: ImageSource | Iterable[ImageSource], batch_size: int = 8) -> list[ImageDetections]:
        """Detect objects.

        Args:
            images: one image or many, of any sizes: a path (turned as its EXIF orientation says), a Pillow image (taken
                as it is), or uint8 RGB as an array or tensor, (height, width, 3) or (3, height, width).
            batch_size: how many images a GPU works on at once.

        Returns:
            One entry per image, in the order of the images.

        Raises:
            ImageError: An image cannot be read, or is not uint8 RGB.
            ConfigError: The batch size is below 1.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; expected at least 1")
        size = 1 if self.device.type == "cpu" else batch_size
        return [found for batch in _batches(map(_to_rgb, _as_many(images)), size) for found in self.detect_batch(batch)]

    @torch.inference_mode()
    def detect_batch(self, images: list[RgbImage]) -> list[ImageDetections]:
        """Detect objects in images, (height, width, 3) uint8 each, that go through the network together."""
        config = self.model.config
        batch, image_scales = preprocess(images, config, self.device)
        batch = batch.to(next(self.model.parameters()).dtype).contiguous(memory_format=self.memory_format)
        with torch.autocast(self.device.type, enabled=self.autocast):
            class_logits, box_deltas = self.model.eval()(batch)
        found = postprocess(class_logits, box_deltas, self.anchors_yxyx, image_scales, config.image_size, self.profile)
        return self._split(found)

    def _split(self, found: Detections) -> list[ImageDetections]:
        """Cut a padded batch into images, on the CPU."""
        rows = zip(*(tensor.cpu() for tensor in found), strict=True)
        results = []
        for boxes_xyxy, scores, category_ids, num_detections in rows:
            kept = scores[:num_detections] >= self.score_threshold
            category_ids = category_ids[:num_detections][kept]
            names = [category_name(number, self.label_map) for number in category_ids.tolist()]
            results.append(
                ImageDetections(boxes_xyxy[:num_detections][kept], scores[:num_detections][kept], category_ids, names)
            )
        return results


def _default_device(model: EfficientDet | str | Path) -> torch.device | str:
    if isinstance(model, EfficientDet):
        return next(model.parameters()).device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _usable_device(device: torch.device | str) -> torch.device:
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"the device {str(device)!r} cannot be used: {reason}; expected cpu, cuda, cuda:1, ..."
        ) from error
    return torch.device(device)


def _as_many(images: ImageSource | Iterable[ImageSource]) -> Iterable[ImageSource]:
    if isinstance(images, (str, Path, Image.Image)):
        return [images]
    if isinstance(images, (np.ndarray, Tensor)) and images.ndim != 4:
        return [images]
    return images


def _to_rgb(image: ImageSource) -> RgbImage:
    """Return uint8 pixels (height, width, 3)."""
    if isinstance(image, (str, Path)):
        return read_image(image, apply_exif=True)
    if isinstance(image, Image.Image):
        return image_to_rgb(image)
    if not isinstance(image, (np.ndarray, Tensor)):
        raise ImageError(f"an image is a {type(image).__name__}; expected a path, a Pillow image, an array or a tensor")
    if str(image.dtype) not in ("uint8", "torch.uint8"):
        raise ImageError(f"an image has dtype {image.dtype}; expected uint8, 0..255")
    if image.ndim != 3 or 3 not in (image.shape[0], image.shape[2]) or 0 in image.shape:
        raise ImageError(f"an image has shape {tuple(image.shape)}; expected RGB, (height, width, 3)")
    if image.shape[2] == 3:
        return image
    return image.permute(1, 2, 0) if isinstance(image, Tensor) else image.transpose(1, 2, 0)


def _batches(images: Iterable[RgbImage], size: int) -> Iterator[list[RgbImage]]:
    iterator = iter(images)
    while batch := list(islice(iterator, size)):
        yield batch
