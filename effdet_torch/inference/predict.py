"""Images in, detections out: reading, preprocessing, network and postprocessing in one call."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from effdet_torch.checks import SEGMENTATION, require_type
from effdet_torch.config import SCORE_THRESHOLD
from effdet_torch.engines.file_engine import FileEngine
from effdet_torch.errors import ConfigError, NonFiniteOutputError, UsageError
from effdet_torch.inference.images import ImageError, ImageFile, ImageSource, as_many, read_images, to_rgb
from effdet_torch.inference.labels import chosen_names
from effdet_torch.inference.nonfinite import by_name, explained
from effdet_torch.inference.results.image_detections import ImageDetections
from effdet_torch.inference.runtime import Engine, make_engine
from effdet_torch.inference.selection import Selection, category_ids_of
from effdet_torch.optimize.precision import Precision
from effdet_torch.processing.cpu import CpuProcessing, FileProcessing, image_masks
from effdet_torch.processing.profiles import OWN, Profile, get_profile, profile_name

if TYPE_CHECKING:
    import torch

    from effdet_torch.engines.torch_engine import TorchEngine
    from effdet_torch.network.model import EfficientDet
    from effdet_torch.processing.gpu import GpuProcessing


class Predictor:
    """An EfficientDet with everything around it: the one way from images to detections.

    The network runs in full float32 precision, unless the model or `precision` says otherwise. On the CPU every image
    goes through it alone, so an image's detections do not depend on the others. Around the network the CPU path is
    NumPy, and needs no torch; on a GPU it is torch.

    Args:
        model: a converted file; a file of effdet-export; a model, which is then moved to `device`; or an engine, which
            brings its own device and precision.
        profile: how detections are made; a name in `effdet_torch.processing.profiles.PROFILES`, "model" for the
            model's own (which is "serving" unless it was trained with other `nms_configs`), or a profile; a file with
            detections has one inside.
        device: where the network runs; by default where `model` is, and for a file the GPU if there is one.
        rank: of this process among several, see `usable_device`.
        image_size: (height, width) of the network input, or one number for both; by default the model's.
        score_threshold: detections below it are left out, 0..1; 0 keeps all, which metrics need.
        iou_threshold: overlap above which a box is removed, 0..1, instead of the profile's; not with soft suppression.
        max_detections: per image, instead of the profile's.
        classes: names or category ids of those to report, see `Selection`; by default all.
        precision: of the network: "model" for the model's own, "float32", "bfloat16" or "float16".
        fused: run a faster network with equal outputs, see `optimize.fuse`, instead of `model` itself.
        compiled: run it through `torch.compile`; the first call takes a minute.
        backend: run a converted file in another runtime, by the name of a format of effdet-export; it is exported once,
            into a cache.
        label_map: {category id: name}, or a file that `read_labels` reads; by default the model's, or COCO's for 90
            classes; others are "class 7".
        check_values: compare a file with its checksums, see `read_model_file` and `require_intact`.

    Attributes:
        config: of the model, with the image size in use.
        engine: runs the network, see `Engine` and `TorchEngine`.
        device: where it runs.

    Raises:
        ConfigError: The profile does not exist, the device cannot be used, the image size is too small for the model,
            a number is out of its range, a class does not exist, or a threshold would have no effect.
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
        image_size: tuple[int, int] | int | None = None,
        score_threshold: float = SCORE_THRESHOLD,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        classes: str | int | Iterable[str | int] | None = None,
        precision: Precision = "model",
        fused: bool = True,
        compiled: bool = False,
        backend: str | None = None,
        label_map: Mapping[int, str] | str | Path | None = None,
        check_values: bool = False,
    ) -> None:
        if isinstance(image_size, int):
            image_size = (image_size, image_size)
        self._selection = Selection(score_threshold, iou_threshold, max_detections)
        switches = {"fused": fused, "compiled": compiled, "check_values": check_values}
        for name, value in switches.items():
            require_type(value, bool, name, "True or False")
        self.engine = make_engine(
            model,
            device=device,
            rank=rank,
            check_values=check_values,
            precision=precision,
            fused=fused,
            compiled=compiled,
            backend=backend,
            image_size=image_size,
        )
        self.device, config = self.engine.device, self.engine.config
        self.config = config if image_size is None else replace(config, image_size=image_size)
        if isinstance(self.engine, FileEngine):
            self.engine.require_size(*self.config.image_size)
        if not self.config.detects and (iou_threshold, max_detections, classes) != (None, None, None):
            raise ConfigError(
                "the model predicts no boxes; leave out iou_threshold (--iou), max_detections (--max-detections) and "
                "classes (--classes)"
            )
        self.profile, self.score_threshold = self._chosen(profile), score_threshold
        self._processing = self._make_processing()
        self.label_map = chosen_names(label_map, self.config)
        if classes is not None:
            chosen = category_ids_of(classes, self.label_map, self.config.num_classes)
            self._selection = replace(self._selection, category_ids=chosen)

    @property
    def model(self) -> EfficientDet:
        """The network, where it runs in PyTorch.

        Raises:
            UsageError: Another runtime runs it.
        """
        if not hasattr(self.engine, "model"):
            raise UsageError("this needs the network in PyTorch, and another runtime runs it: pass a converted file")
        return cast("TorchEngine", self.engine).model

    @property
    def runtime(self) -> str:
        """What runs the network: "PyTorch", or the name and version of another runtime."""
        return self.engine.runtime if isinstance(self.engine, FileEngine) else "PyTorch"

    @property
    def device_type(self) -> str:
        """What kind of device it is: "cpu" or "cuda"."""
        return str(self.device).partition(":")[0]

    @property
    def category_ids(self) -> tuple[int, ...] | None:
        """The categories that are reported, ascending; None: all."""
        return self._selection.category_ids

    @property
    def has_nms_inside(self) -> bool:
        """Whether detections come out of the model's file, so that no other profile can be chosen."""
        return self._fixed_profile is not None

    @property
    def _fixed_profile(self) -> Profile | None:
        """The profile of the detections that come out of a file; None: its outputs are raw, and any profile will do."""
        return self.engine.profile if isinstance(self.engine, FileEngine) else None

    def _chosen(self, profile: str | Profile) -> Profile:
        """Return the profile in use."""
        fixed = self._fixed_profile
        chosen = fixed if fixed is not None and profile == OWN else get_profile(profile, self.config)
        if fixed is not None and fixed != chosen:
            raise ConfigError(
                f"the file makes its detections with the profile {profile_name(fixed)}, not with "
                f"{profile_name(chosen)}; pass --profile {OWN}, or export it again with --nms none, which leaves "
                "the choice to every call"
            )
        return self._selection.applied_to(chosen, fixed is not None)

    def _make_processing(self) -> CpuProcessing | GpuProcessing:
        if self.device_type == "cpu":
            return CpuProcessing(self.config) if self._fixed_profile is None else FileProcessing(self.config)
        from effdet_torch.processing.gpu import GpuProcessing

        return GpuProcessing(self.config, self.device)

    def __call__(self, images: ImageSource | Iterable[ImageSource], batch_size: int = 8) -> list[ImageDetections]:
        """Detect objects; with a segmentation head, find the class of every pixel.

        Args:
            images: one image or many, of any sizes: a path (turned as its EXIF orientation says), a Pillow image (taken
                as it is), or uint8 RGB as an array or tensor, (height, width, 3) or (3, height, width).
            batch_size: how many images a GPU works on at once.

        Returns:
            One entry per image, in the order of the images.

        Raises:
            ImageError: An image cannot be read, or is not uint8 RGB.
            ConfigError: The batch size is below 1.
            NonFiniteOutputError: The network returned NaN or infinity for an image.
        """
        _require_count(batch_size, "batch_size", 1)
        sources, found = iter(many := as_many(images)), list[ImageDetections]()
        # What an iterator makes belongs to nobody else, and keeping thousands of images would fill the memory.
        keeps = not isinstance(many, Iterator)
        while batch := list(islice(sources, 1 if self.device_type == "cpu" else min(batch_size, sys.maxsize))):
            rgb = [to_rgb(image) for image in batch]
            pixels, image_scales = self._processing.prepare(rgb)
            try:
                results = self._found(self.engine(pixels), image_scales, [(im.shape[0], im.shape[1]) for im in rgb])
            except NonFiniteOutputError as error:
                source = batch[error.place]
                name = str(source) if isinstance(source, (str, Path)) else ""
                raise error.at(len(found) + error.place, name) from error
            kept = [source if keeps or isinstance(source, (str, Path)) else None for source in batch]
            found += [replace(one, source=source) for one, source in zip(results, kept, strict=True)]
        return found

    def _found(self, outputs: Any, image_scales: Any, sizes: Sequence[tuple[int, int]]) -> list[ImageDetections]:
        """Turn all outputs of the network into what was found in images of some sizes."""
        detects, found = self.config.detects, [ImageDetections.none()] * len(sizes)
        if detects:
            found = self.detections(outputs[0], outputs[1], image_scales)
        found = [replace(one, size=size) for one, size in zip(found, sizes, strict=True)]
        if not self.config.segments:
            return found
        mask_logits = outputs[2] if detects else outputs
        try:
            masks = image_masks(mask_logits, sizes, self.config.image_size)
        except NonFiniteOutputError as error:
            raise explained(error, {SEGMENTATION: mask_logits}, self.engine) from error
        return [replace(one, mask=mask) for one, mask in zip(found, masks, strict=True)]

    def stream(
        self, paths: Sequence[ImageFile], batch_size: int = 8, *, workers: int = 0, apply_exif: bool = True
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
            NonFiniteOutputError: The network returned NaN or infinity for an image.
        """
        require_type(paths, (list, tuple), "paths", "a list of image files")
        _require_count(batch_size, "batch_size", 1)
        _require_count(workers, "workers", 0)
        batch_size = min(batch_size, max(1, len(paths)))
        on_gpu, files = self.device_type == "cuda", iter(paths)
        batches = read_images(paths, batch_size, workers=workers, apply_exif=apply_exif, pin_memory=on_gpu)
        try:
            for result in self.stream_batches(batches):
                file = next(files)
                source = file if apply_exif else None  # it is read again to be drawn, and turned then
                yield result if isinstance(result, ImageError) else (result[0], replace(result[1], source=source))
        except NonFiniteOutputError as error:
            raise error.at(error.place, str(list(files)[error.place])) from error

    def stream_batches(
        self, batches: Iterable[list[NDArray[np.uint8] | ImageError]]
    ) -> Iterator[tuple[NDArray[np.uint8], ImageDetections] | ImageError]:
        """Detect objects in images that come in batches: one batch at a time is in memory, and goes through a GPU.

        Args:
            batches: lists, which are emptied, of uint8 RGB (height, width, 3), or of why an image cannot be read.

        Yields:
            See `stream`; the detections do not keep the image.

        Raises:
            NonFiniteOutputError: The network returned NaN or infinity for an image; its place is that in its batch.
        """
        for batch in batches:
            images = {place: image for place, image in enumerate(batch) if not isinstance(image, ImageError)}
            places = list(images)
            try:
                found = iter(self(iter(images.values()), max(1, len(batch))))
            except NonFiniteOutputError as error:
                raise error.at(places[error.place]) from error
            del images
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

        Raises:
            NonFiniteOutputError: There is NaN or infinity among the outputs of an image.
        """
        chosen = self.profile if profile is None else self._chosen(profile)
        make = partial(self._processing.detections, class_logits, box_deltas, image_scales)
        try:
            found = self._selection.detections(make, chosen, self.has_nms_inside)
        except NonFiniteOutputError as error:
            raise explained(error, by_name(class_logits, box_deltas, self.engine), self.engine) from error
        return [ImageDetections(*columns, self.names_of(columns.classes.tolist())) for columns in found]


def _require_count(value: int, name: str, least: int) -> None:
    require_type(value, Integral, name, f"a whole number, at least {least}")
    if value < least:
        raise ConfigError(f"{name} is {value}; expected at least {least}")
