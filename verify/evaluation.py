"""The detections of a converted model: evaluated on COCO, and compared with whatever there is to compare with."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from converter.conversion import describe_files
from converter.locate import open_checkpoint
from effdet_torch.data.dataset import TEST_DEV
from effdet_torch.data.sources import DataSource
from effdet_torch.errors import ConfigError, EvaluationError
from effdet_torch.file_format import sha256
from effdet_torch.inference.postprocess import PROFILES
from effdet_torch.metrics.coco import CocoResult
from effdet_torch.outputs import NO_FILES, RunFiles
from verify.claim import Requirement
from verify.detection_results import DetectionParity, DetectionResult
from verify.detections.distributed import ALONE, Processes
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
    source: Path | DataSource,
    settings: CocoSettings,
    out: Path | None = None,
    expected: Path | None = None,
    checkpoint: Path | str | None = None,
    processes: Processes = ALONE,
    progress: Progress | None = None,
    require: Requirement | None = None,
    files: RunFiles = NO_FILES,
) -> Verification | None:
    """Evaluate a converted model on COCO and compare its detections.

    Args:
        path: a converted model.
        source: the data set; a path is COCO's folder.
        settings: how to evaluate.
        out: see `evaluate_coco`.
        expected: detections in COCO's results format to compare with.
        checkpoint: the model's TensorFlow checkpoint, to run beside it stage by stage on the same images.
        processes: of a distributed run.
        progress: called with (done, total) images.
        require: the weakest claim that passes, see `verify.claim`; an evaluation has the file's own evidence only.
        files: see `evaluate_coco`.

    Returns:
        A verification without layers; None in all processes but the first.

    Raises:
        EffdetError: See `evaluate_coco`; or the references cannot be read or do not fit the images or the settings.
    """
    start = time.perf_counter()
    _require_comparable(settings, expected, checkpoint)
    wanted = [] if expected is None else read_results(expected)
    evaluation = evaluate_coco(path, source, settings, out, processes, progress, files)
    if evaluation is None:
        return None
    detection, reference = _compared(evaluation, wanted, expected, checkpoint)
    described = {**describe_files([path], checksums=True)[0], "path": path.name, "metadata": evaluation.metadata}
    used, seconds = _plain(evaluation, processes), time.perf_counter() - start
    return Verification(
        described, reference, used, versions(), (), None, seconds=seconds, detection=detection, required=require
    )


def _require_comparable(settings: CocoSettings, expected: Path | None, checkpoint: Path | str | None) -> None:
    if settings.split == TEST_DEV and (expected is not None or checkpoint is not None):
        raise EvaluationError("testdev has no annotations and nothing to compare with: leave the references out")
    if checkpoint is not None and settings.limit is None:
        raise ConfigError("TensorFlow runs beside PyTorch for seconds per image: choose a few images with --limit N")


def _compared(
    evaluation: Evaluation, wanted: list[CocoResult], expected: Path | None, checkpoint: Path | str | None
) -> tuple[DetectionResult, dict[str, Any]]:
    """Return the evaluation beside the references, and a description of those."""
    detection, reference = _result(evaluation), dict[str, Any]()
    if expected is not None:
        detection = replace(detection, parity=_compare(evaluation, wanted, expected.name))
        reference |= {"name": expected.name, "sha256": sha256(expected)}
    if checkpoint is not None:
        from verify.detections.stages import compare_stages

        with open_checkpoint(checkpoint) as source:
            stages, described = compare_stages(evaluation, source)
            files = describe_files(source.files(), checksums=True)
            reference |= described | {"source": source.path.name, "files": files}
        detection = replace(detection, stages=stages)
    return detection, reference


def _result(evaluation: Evaluation) -> DetectionResult:
    split, published = evaluation.split, None
    if evaluation.metrics and evaluation.predictor.profile == PROFILES["official-eval"]:
        config, ap = evaluation.predictor.config, evaluation.metrics["AP"]
        published = compare_with_published(evaluation.metadata, config, split.name, len(split.images), ap)
    return DetectionResult(
        split=split.name,
        profile=evaluation.settings.profile,
        images=len(split.images),
        detections=len(evaluation.results),
        metrics=evaluation.metrics,
        complete=evaluation.complete,
        published=published,
        notes=split.notes,
        evaluator=str(evaluation.evaluator) if evaluation.metrics else "",
    )


def _compare(evaluation: Evaluation, expected: list[CocoResult], source: str) -> DetectionParity:
    split = evaluation.split
    if expected and not {result["image_id"] for result in expected} & set(split.image_ids):
        raise EvaluationError(f"{source} has no detection in the {len(split.images)} images that were evaluated")
    evaluator = evaluation.evaluator.name
    return compare_detections(evaluation.results, expected, split.image_ids, source, split.dataset, evaluator)


def _plain(evaluation: Evaluation, processes: Processes) -> dict[str, Any]:
    """Return the settings with what they stand for."""
    settings = evaluation.settings
    values = {name: value for name, value in asdict(settings).items() if value is not None}
    if settings.labels is not None:
        values["labels"] = settings.labels.name
    return values | {
        "profile": {"name": settings.profile, **asdict(evaluation.predictor.profile)},
        "image_size": list(evaluation.predictor.config.image_size),
        "split": evaluation.split.name,
        "annotations": evaluation.split.path.name,
        "annotations_sha256": evaluation.split.checksum,
        "threads": torch.get_num_threads(),
        "processes": processes.count,
    }
