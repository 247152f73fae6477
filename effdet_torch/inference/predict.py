"""Images in, detections out: reading, preprocessing, network and postprocessing in one call."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from effdet_torch.checks import require_type
from effdet_torch.config import SCORE_THRESHOLD
from effdet_torch.errors import ConfigError
from effdet_torch.geometry.numpy_boxes import xyxy_to_xywh
from effdet_torch.inference.images import ImageError, ImageSource, as_many, read_images, to_rgb
from effdet_torch.inference.labels import COCO_NAMES, COCO_NUM_CLASSES, read_labels
from effdet_torch.inference.runtime import Engine, make_engine
from effdet_torch.optimize.precision import Precision
from effdet_torch.processing.cpu import CpuProcessing
from effdet_torch.processing.profiles import OWN, Profile, get_profile

if TYPE_CHECKING:
    import torch

    from effdet_torch.inference.engine import TorchEngine
    from effdet_torch.network.model import EfficientDet
    from effdet_torch.processing.gpu import GpuProcessing

LABEL_MAP = "{category id: name}, which is dict(enumerate(names, start=1)) of a list, or the path of a file of names"


@dataclass(frozen=True)
class ImageDetections:
    """What was found in one image, best first.

    Attributes:
        boxes_xyxy: (N, 4) float32 as (xmin, ymin, xmax, ymax) in pixels of the original image.
        scores: (N,) float32, 0..1.
        category_ids: (N,) int64, class channel + 1: COCO's ids for the official models.
        names: of the N categories.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    category_ids: NDArray[np.int64]
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """Return the detections as entries of a COCO results file; `bbox` is (xmin, ymin, width, height)."""
        boxes_xywh = xyxy_to_xywh(self.boxes_xyxy)
        columns = (array.tolist() for array in (self.category_ids, boxes_xywh, self.scores))
        return [
            {"image_id": image_id, "category_id": category_id, "bbox": box_xywh, "score": score}
            for category_id, box_xywh, score in zip(*columns, strict=True)
        ]


class Predictor:
    """An EfficientDet with everything around it: the one way from images to detections.

    The network runs in full float32 precision, unless the model has another dtype or `autocast` is on. On the CPU every
    image goes through it alone: kernels round differently for other batch sizes (1e-6 in the scores, enough to swap
    equals), and batches are hardly faster there. So an image's detections do not depend on the other images. Around the
    network the CPU path is NumPy, and needs no torch; on a GPU it is torch.

    Args:
        model: a converted file; or a model, which is then moved to `device` and switched to eval mode; or an engine,
            which brings its own device and precision.
        profile: how detections are made; a name in `effdet_torch.processing.profiles.PROFILES`, "model" for the
            model's own (which is "serving" unless it was trained with other `nms_configs`), or a profile.
        device: where the network runs; by default where `model` is, and for a file the GPU if there is one.
        rank: of this process among several, see `usable_device`.
        image_size: (height, width) of the network input; by default the model's.
        score_threshold: detections below it are left out, 0..1; 0 keeps all, which metrics need.
        precision: of the network: "model" for the model's own, "float32", "bfloat16" or "float16".
        fused: run a faster network with equal outputs, see `optimize.fuse`, instead of `model` itself.
        compiled: run it through `torch.compile`; the first call takes a minute.
        label_map: {category id: name}, or a file that `read_labels` reads; by default the model's, or COCO's for 90
            classes; others are "class 7".
        check_values: compare the values of a file with its checksums, see `read_model_file`.

    Attributes:
        config: of the model, with the image size in use.
        engine: runs the network, see `Engine` and `TorchEngine`.
        device: where it runs.

    Raises:
        ConfigError: The profile does not exist, the device cannot be used, the image size is too small for the model,
            or the threshold is not in 0..1.
        UsageError: The file of names cannot be read, or does not fit the model; or an argument is of another type, or
            does not go with an engine.
        ModelFileError: The model file cannot be read.
    """

    def __init__(
        self,
        model: EfficientDet | Engine | str | Path,
        *,
        profile: str | Profile = OWN,
        device: torch.device | str | None = None,
        rank: int | None = None,
        image_size: tuple[int, int] | None = None,
        score_threshold: float = SCORE_THRESHOLD,
        precision: Precision = "model",
        fused: bool = True,
        compiled: bool = False,
        label_map: Mapping[int, str] | str | Path | None = None,
        check_values: bool = False,
    ) -> None:
        require_type(score_threshold, Real, "score_threshold", "a number, 0 to 1")
        switches = {"fused": fused, "compiled": compiled, "check_values": check_values}
        for name, value in switches.items():
            require_type(value, bool, name, "True or False")
        if not 0 <= score_threshold <= 1:
            raise ConfigError(f"score_threshold is {score_threshold}; expected 0 to 1")
        self.engine = make_engine(
            model,
            device=device,
            rank=rank,
            check_values=check_values,
            precision=precision,
            fused=fused,
            compiled=compiled,
        )
        self.device, config = self.engine.device, self.engine.config
        self.config = config if image_size is None else replace(config, image_size=image_size)
        self.profile, self.score_threshold = get_profile(profile, self.config), score_threshold
        self._processing = self._make_processing()
        if label_map is None:
            is_coco = self.config.num_classes == COCO_NUM_CLASSES and not self.config.label_map
            label_map = COCO_NAMES if is_coco else dict(self.config.label_map)
        elif not isinstance(label_map, Mapping):
            require_type(label_map, (str, os.PathLike), "label_map", LABEL_MAP)
            label_map = read_labels(label_map, self.config.num_classes)
        for number, name in label_map.items():
            require_type(number, Integral, f"the category {number!r} of label_map", LABEL_MAP)
            require_type(name, str, f"the name of category {number} in label_map", LABEL_MAP)
        self.label_map = label_map

    @property
    def model(self) -> EfficientDet:
        """The network, where it runs in PyTorch."""
        return cast("TorchEngine", self.engine).model

    @property
    def device_type(self) -> str:
        """What kind of device it is: "cpu" or "cuda"."""
        return str(self.device).partition(":")[0]

    def _make_processing(self) -> CpuProcessing | GpuProcessing:
        if self.device_type == "cpu":
            return CpuProcessing(self.config)
        from effdet_torch.processing.gpu import GpuProcessing

        return GpuProcessing(self.config, self.device)

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
        _require_count(batch_size, "batch_size", 1)
        sources, found = iter(as_many(images)), list[ImageDetections]()
        while batch := list(islice(sources, 1 if self.device_type == "cpu" else min(batch_size, sys.maxsize))):
            pixels, image_scales = self.prepare(batch)
            found += self.detections(*self.engine(pixels), image_scales)
        return found

    def stream(
        self, paths: Sequence[Path], batch_size: int = 8, *, workers: int = 0, apply_exif: bool = True
    ) -> Iterator[tuple[NDArray[np.uint8], ImageDetections] | ImageError]:
        """Read image files and detect objects in one after another.

        Args:
            paths: image files.
            batch_size: how many images are read, and go through a GPU, at once.
            workers: processes that read ahead, two batches each; 0 reads in this one, and not ahead. No other image is
                in memory.
            apply_exif: see `read_image`; boxes refer to the image as it was read.

        Yields:
            For every file its pixels (height, width, 3) and the detections, or why it cannot be read.

        Raises:
            ConfigError: A number is too small.
            UsageError: An argument is of another type.
        """
        require_type(paths, (list, tuple), "paths", "a list of image files")
        _require_count(batch_size, "batch_size", 1)
        _require_count(workers, "workers", 0)
        batch_size = min(batch_size, max(1, len(paths)))
        on_gpu = self.device_type == "cuda"
        for batch in read_images(paths, batch_size, workers=workers, apply_exif=apply_exif, pin_memory=on_gpu):
            found = iter(self([image for image in batch if not isinstance(image, ImageError)], batch_size))
            while batch:  # an image leaves the batch before the next batch is read
                image = batch.pop(0)
                yield image if isinstance(image, ImageError) else (image, next(found))

    def prepare(self, images: Sequence[ImageSource], apply_exif: bool = True) -> tuple[Any, Any]:
        """Return images as one batch of network input (B, 3, H, W), and their scales (B,): arrays, on a GPU tensors.

        See `preprocess`, and `to_rgb` for EXIF.
        """
        return self._processing.prepare([to_rgb(image, apply_exif) for image in images])

    def names_of(self, category_ids: Iterable[int]) -> list[str]:
        """Return the names of categories; one without a name is "class 7"."""
        return [self.label_map.get(number, f"class {number}") for number in category_ids]

    def detections(
        self,
        class_logits: Sequence[Any],
        box_deltas: Sequence[Any],
        image_scales: Any,
        profile: str | Profile | None = None,
    ) -> list[ImageDetections]:
        """Turn outputs of the network, as an engine gives them, into detections; see `postprocess`.

        The default profile is the predictor's.
        """
        chosen = self.profile if profile is None else get_profile(profile, self.config)
        results = []
        for found in self._processing.detections(class_logits, box_deltas, image_scales, chosen):
            kept = found.scores >= self.score_threshold
            category_ids = found.classes[kept]
            names = self.names_of(category_ids.tolist())
            results.append(ImageDetections(found.boxes_xyxy[kept], found.scores[kept], category_ids, names))
        return results


def _require_count(value: int, name: str, least: int) -> None:
    require_type(value, Integral, name, f"a whole number, at least {least}")
    if value < least:
        raise ConfigError(f"{name} is {value}; expected at least {least}")
