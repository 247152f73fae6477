"""COCO evaluation of a converted model: the 12 numbers as the official code computes them.

Workers read and prepare images, the device runs network and NMS, every batch's detections go to disk at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from converter.conversion import sha256
from effdet_torch.data.coco_dataset import (
    TEST_DEV,
    CocoImage,
    CocoImages,
    CocoSplit,
    read_split,
    require_classes,
    require_images,
)
from effdet_torch.errors import ConfigError, EvaluationError
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.inference.images import ImageError
from effdet_torch.inference.postprocess import Detections, get_profile, postprocess
from effdet_torch.inference.predict import ImageDetections
from effdet_torch.metrics.coco_metrics import CocoResult, coco_metrics
from effdet_torch.network.checkpoint import load_model
from effdet_torch.network.model import EfficientDet
from verify.detections.distributed import Processes
from verify.detections.results_file import ByImage, PartialResults, submission_name, to_submission, write_results

if TYPE_CHECKING:
    from effdet_torch.terminal import Progress


@dataclass(frozen=True)
class CocoSettings:
    """How to evaluate.

    Attributes:
        split: "val2017", "testdev" (no metrics), or another that follows COCO's layout.
        limit: only the images of the lowest ids; None takes all.
        batch: images per step; detections do not depend on it.
        workers: processes that read and prepare images; 0 does it in this one.
        device: "cpu", "cuda", "cuda:1", ...; of a distributed run every process takes its own GPU for "cuda".
        profile: name of a postprocessing profile.
        image_size: (height, width) of the network input; None takes the model's.
    """

    split: str = "val2017"
    limit: int | None = None
    batch: int = 8
    workers: int = 2
    device: str = "cpu"
    profile: str = "official-eval"
    image_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Attributes:
        model: the evaluated model.
        split: the evaluated images.
        complete: whether these are all of the split.
        results: detections by ascending image id, best first.
        metrics: COCO's 12 numbers in 0..1; empty for testdev.
    """

    model: EfficientDet
    split: CocoSplit
    complete: bool
    results: list[CocoResult]
    metrics: Mapping[str, float]


def evaluate_coco(
    path: Path,
    root: Path,
    settings: CocoSettings,
    out: Path | None = None,
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> Evaluation | None:
    """Detect in the images of a split, write the results, and compute the metrics.

    Args:
        path: a converted model.
        root: COCO's folder.
        settings: how.
        out: results file; an interrupted run goes on where it was. For testdev the submission, and its name by default.
        processes: of a distributed run.
        progress: called with (done, total) images after every batch.

    Returns:
        The evaluation; None in all processes but the first.

    Raises:
        ModelFileError: The model cannot be loaded.
        EvaluationError: The images, the annotations or a partial result do not fit.
        ConfigError: The device, the profile or a number is not possible.
    """
    processes = processes or Processes()
    model = load_for(path, settings, processes.rank)
    whole = read_split(root, settings.split)
    split = whole.first(settings.limit)
    require_images(split)
    require_classes(split, model.config)
    if settings.split == TEST_DEV and (out is None or out.is_dir()):
        out = (out or Path()) / submission_name(path)
    partial = None if out is None else PartialResults(out, _origin(path, split, settings), processes.rank)
    processes.wait()  # until all have read what an interrupted run left, before one of them writes
    gathered = processes.gather(_detect_share(model, split, settings, partial, processes, progress))
    if processes.rank != 0:
        return None
    by_image = {image_id: detections for part in gathered for image_id, detections in part.items()}
    results = [result for image_id in split.image_ids for result in by_image[image_id]]
    if out is not None and partial is not None:
        write_results(out, to_submission(results) if settings.split == TEST_DEV else results)
        partial.remove()
    metrics = {} if settings.split == TEST_DEV else coco_metrics(split.dataset, results, split.image_ids)
    return Evaluation(model, split, len(split.images) == len(whole.images), results, metrics)


def load_for(path: Path, settings: CocoSettings, rank: int = 0) -> EfficientDet:
    """Load a model onto the device and for the image size of the settings.

    Raises:
        ModelFileError: The model cannot be loaded.
        ConfigError: There is no such device or profile, or the image size or another number does not fit.
    """
    get_profile(settings.profile)
    for name, least in (("limit", 1), ("batch", 1), ("workers", 0)):
        value = getattr(settings, name)
        if value is not None and value < least:
            raise ConfigError(f"{name} is {value}; expected at least {least}")
    model = load_model(path, device=_device(settings.device, rank))
    if settings.image_size is not None:
        model.config = replace(model.config, image_size=settings.image_size)
        model.config.feature_sizes()
    return model


def _device(name: str, rank: int) -> torch.device:
    try:
        device = torch.device(name)
        if device.type == "cuda" and ":" not in name:
            device = torch.device("cuda", rank % max(1, torch.cuda.device_count()))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a PyTorch without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ConfigError(f"the device {name!r} cannot be used: {reason}; use cpu, or another") from error
    return device


def _origin(path: Path, split: CocoSplit, settings: CocoSettings) -> dict[str, Any]:
    """Return all that detections depend on; how many are made at a time, and by how many workers, is not part of it."""
    return {
        "model": sha256(path),
        "annotations": sha256(split.path),
        "profile": asdict(get_profile(settings.profile)),
        **{name: getattr(settings, name) for name in ("split", "limit", "image_size")},
        "device": torch.device(settings.device).type,
    }


def _detect_share(
    model: EfficientDet,
    split: CocoSplit,
    settings: CocoSettings,
    partial: PartialResults | None,
    processes: Processes,
    progress: Progress | None,
) -> ByImage:
    """Return the detections of this process's share of the images, and of those that an interrupted run has done."""
    done = dict(partial.done) if partial is not None else {}
    images = processes.share([image for image in split.images if image.image_id not in done])
    total = len(done) + len(images)
    with nullcontext() if partial is None else partial:
        for found in detect_images(model, images, settings):
            done |= found
            if partial is not None:
                partial.add(found)
            if progress is not None:
                progress(len(done), total)
    return done


def detect_images(model: EfficientDet, images: Sequence[CocoImage], settings: CocoSettings) -> Iterator[ByImage]:
    """Yield {image id: detections} of one batch after another.

    On the CPU every image goes through the network alone, so that its detections do not depend on the batch. On a GPU
    other kernels run for other batch sizes, and scores differ in the seventh digit.

    Raises:
        EvaluationError: An image cannot be read.
    """
    if not images:
        return
    device = next(model.parameters()).device
    dataset = CocoImages(images, model.config)
    loader = DataLoader(dataset, settings.batch, num_workers=settings.workers, pin_memory=device.type == "cuda")
    try:
        for image_ids, pixels, image_scales in loader:
            step = 1 if device.type == "cpu" else settings.batch
            found: ByImage = {}
            for part in zip(image_ids.split(step), pixels.split(step), image_scales.split(step), strict=True):
                batch, scales = (tensor.to(device, non_blocking=True) for tensor in part[1:])
                found |= to_coco(part[0].tolist(), detect_batch(model, batch, scales, settings.profile))
            yield found
    except ImageError as error:  # of a worker: its traceback comes before the error itself
        raise EvaluationError(str(error).strip().splitlines()[-1].removeprefix(_WORKER_ERROR)) from error


_WORKER_ERROR = f"{ImageError.__module__}.{ImageError.__name__}: "


@torch.inference_mode()
def detect_batch(model: EfficientDet, pixels: Tensor, image_scales: Tensor, profile: str) -> Detections:
    """Run network and postprocessing in full float32 precision.

    Args:
        model: in eval mode.
        pixels: (B, 3, H, W), the network input.
        image_scales: (B,), to original pixels.
        profile: name of a postprocessing profile.
    """
    with torch.backends.cudnn.flags(allow_tf32=False):
        class_logits, box_deltas = model(pixels)
    anchors = make_anchors_yxyx(model.config, pixels.device)
    return postprocess(class_logits, box_deltas, anchors, image_scales, model.config.image_size, profile)


def to_coco(image_ids: Sequence[int], found: Detections) -> ByImage:
    """Return the detections of a batch in COCO's results format, per image, best first."""
    rows = zip(image_ids, *(tensor.cpu() for tensor in found), strict=True)
    return {
        image_id: ImageDetections(boxes[:count], scores[:count], ids[:count], [""] * count).to_coco(image_id)
        for image_id, boxes, scores, ids, count in rows
    }
