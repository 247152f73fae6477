"""The detections of a converted model: evaluated on COCO, and compared with whatever there is to compare with."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from converter.conversion import describe_files, sha256
from converter.locate import open_checkpoint
from effdet_torch.data.coco_dataset import TEST_DEV
from effdet_torch.errors import ConfigError, EvaluationError
from effdet_torch.inference.postprocess import get_profile
from verify.detection_results import DetectionParity, DetectionResult, StageResult
from verify.detections.distributed import Processes
from verify.detections.matching import compare_detections
from verify.detections.published import compare_with_published
from verify.detections.results_file import read_results
from verify.detections.run import CocoSettings, Evaluation, evaluate_coco
from verify.results import Verification
from verify.verification import versions

if TYPE_CHECKING:
    from effdet_torch.terminal import Progress


def verify_detections(
    path: Path,
    root: Path,
    settings: CocoSettings,
    out: Path | None = None,
    expected: Path | None = None,
    checkpoint: Path | str | None = None,
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> Verification | None:
    """Evaluate a converted model on COCO and compare its detections.

    Args:
        path: a converted model.
        root: COCO's folder.
        settings: how to evaluate.
        out: see `evaluate_coco`.
        expected: detections in COCO's results format to compare with.
        checkpoint: the model's TensorFlow checkpoint, to run beside it stage by stage on the same images.
        processes: of a distributed run.
        progress: called with (done, total) images.

    Returns:
        A verification without layers; None in all processes but the first.

    Raises:
        ConfigError: A checkpoint is given without a limit on the images.
        EvaluationError: See `evaluate_coco`; or the expected detections are not of these images.
        EffdetError: The model or the checkpoint cannot be read.
    """
    start = time.perf_counter()
    if settings.split == TEST_DEV and (expected is not None or checkpoint is not None):
        raise EvaluationError("testdev has no annotations and nothing to compare with: leave the references out")
    if checkpoint is not None and settings.limit is None:
        raise ConfigError("TensorFlow runs beside PyTorch for seconds per image: choose a few images with --limit N")
    wanted = None if expected is None else read_results(expected)
    evaluation = evaluate_coco(path, root, settings, out, processes, progress)
    if evaluation is None:
        return None
    detection, reference = _result(evaluation, settings), dict[str, Any]()
    if expected is not None and wanted is not None:
        detection = replace(detection, parity=_compare(evaluation, wanted, expected.name))
        reference = {"name": expected.name, "sha256": sha256(expected)}
    if checkpoint is not None:
        stages, described = _stages(evaluation, checkpoint, settings.profile)
        detection, reference = replace(detection, stages=stages), reference | described
    return Verification(
        model={**describe_files([path], checksums=True)[0], "path": path.name, "metadata": evaluation.model.metadata},
        reference=reference,
        settings=_plain(settings, evaluation, processes),
        versions=versions(),
        layers=(),
        audit=None,
        detection=detection,
        seconds=time.perf_counter() - start,
    )


def _result(evaluation: Evaluation, settings: CocoSettings) -> DetectionResult:
    model, split = evaluation.model, evaluation.split
    published = None
    if evaluation.metrics and get_profile(settings.profile) == get_profile("official-eval"):
        ap = evaluation.metrics["AP"]
        published = compare_with_published(model.metadata, model.config, split.name, len(split.images), ap)
    return DetectionResult(
        split=split.name,
        profile=settings.profile,
        images=len(split.images),
        detections=len(evaluation.results),
        metrics=evaluation.metrics,
        complete=evaluation.complete,
        published=published,
    )


def _compare(evaluation: Evaluation, expected: list[dict[str, Any]], source: str) -> DetectionParity:
    split = evaluation.split
    if expected and not {result["image_id"] for result in expected} & set(split.image_ids):
        raise EvaluationError(f"{source} has no detection in the {len(split.images)} images that were evaluated")
    return compare_detections(evaluation.results, expected, split.image_ids, source, split.dataset)


def _stages(
    evaluation: Evaluation, checkpoint: Path | str, profile: str
) -> tuple[tuple[StageResult, ...], dict[str, Any]]:
    from verify.detections.stages import compare_stages

    with open_checkpoint(checkpoint) as source:
        stages, described = compare_stages(evaluation, source, profile)
        return stages, described | {"source": source.path.name, "files": describe_files(source.files(), checksums=True)}


def _plain(settings: CocoSettings, evaluation: Evaluation, processes: Processes | None) -> dict[str, Any]:
    """Return the settings with what they stand for."""
    values = {name: value for name, value in asdict(settings).items() if value is not None}
    return values | {
        "profile": {"name": settings.profile, **asdict(get_profile(settings.profile))},
        "image_size": list(evaluation.model.config.image_size),
        "annotations": evaluation.split.path.name,
        "annotations_sha256": sha256(evaluation.split.path),
        "threads": torch.get_num_threads(),
        "processes": processes.count if processes is not None else 1,
    }
