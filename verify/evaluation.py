"""The detections of a converted model: evaluated on COCO, and compared with whatever there is to compare with."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from converter.conversion import describe_files
from converter.locate import open_checkpoint
from effdet_torch.data.dataset import TEST_DEV
from effdet_torch.data.sources import DataSource
from effdet_torch.errors import ConfigError, EffdetError, EvaluationError
from effdet_torch.file_format import sha256
from effdet_torch.metrics.coco import CocoResult
from effdet_torch.outputs import NO_FILES, RunFiles
from effdet_torch.processing.profiles import PROFILES
from effdet_torch.progress.bar import part_of
from verify.detections.comparison import compare_models
from verify.detections.details import details_of
from verify.detections.distributed import ALONE, Processes
from verify.detections.matching import compare_detections
from verify.detections.published import compare_with_published
from verify.detections.results_file import read_results
from verify.detections.run import CocoSettings, Evaluation, Prepared, evaluate, prepare, read_images
from verify.results.claim import Requirement
from verify.results.detections import DetectionParity, DetectionResult
from verify.results.verification import Verification
from verify.verification import versions

if TYPE_CHECKING:
    from effdet_torch.progress.bar import Progress


@dataclass(frozen=True)
class Beside:
    """What there is to compare a model's detections with.

    Attributes:
        results: detections in COCO's results format.
        checkpoint: the model's TensorFlow checkpoint, to run beside it stage by stage on the same images; both then run
            on the CPU unless a device is chosen.
        model: another converted model, evaluated on the same images; that proves nothing about either.
    """

    results: Path | None = None
    checkpoint: Path | str | None = None
    model: Path | None = None


def verify_detections(
    path: Path,
    source: DataSource,
    settings: CocoSettings,
    beside: Beside | None = None,
    out: Path | None = None,
    processes: Processes = ALONE,
    progress: Progress | None = None,
    require: Requirement | None = None,
    files: RunFiles = NO_FILES,
) -> Verification | None:
    """Evaluate a converted model on a data set and compare its detections.

    Args:
        path: a converted model.
        source: the data set.
        settings: how to evaluate.
        beside: what to compare with.
        out: see `evaluate`.
        processes: of a distributed run.
        progress: called with (done, total) images.
        require: the weakest claim that passes, see `verify.results.claim`; an evaluation has only the file's evidence.
        files: see `evaluate`.

    Returns:
        A verification without layers; None in all processes but the first.

    Raises:
        EffdetError: See `prepare` and `evaluate`; or what is to be compared with cannot be read or does not fit the
            images or the settings.
    """
    start, beside = time.perf_counter(), beside or Beside()
    _require_comparable(settings, beside)
    if beside.checkpoint is not None and settings.device is None:
        settings = replace(settings, device="cpu")  # as the reference: a GPU rounds otherwise
    wanted = [] if beside.results is None else read_results(beside.results)
    prepared = _prepare(path, source, settings, beside.model, processes)
    evaluation, *others = (
        evaluate(each, out if n == 0 else None, processes, part_of(progress, n, len(prepared)), files)
        for n, each in enumerate(prepared)
    )
    if evaluation is None:
        return None
    detection, reference = _compared(evaluation, wanted, beside)
    if evaluation.boxes is not None:
        detection = replace(detection, details=details_of(evaluation))
    for other in others:
        if other is not None:
            detection = replace(detection, comparison=compare_models(evaluation, other, _described(other)))
    return Verification(
        _described(evaluation),
        reference,
        _plain(evaluation, processes),
        versions(),
        layers=(),
        audit=None,
        seconds=time.perf_counter() - start,
        detection=detection,
        required=require,
    )


def _prepare(
    path: Path, source: DataSource, settings: CocoSettings, other: Path | None, processes: Processes
) -> list[Prepared]:
    """Load the model and the other one, if there is one, before the first image."""
    images = read_images(source, settings)
    prepared = [prepare(path, images, settings, processes)]
    if other is not None:
        try:
            prepared.append(prepare(other, images, settings, processes, own_names=True))
        except EffdetError as error:
            raise EvaluationError(f"--compare {other.name}: {error}") from error
    return prepared


def _compared(
    evaluation: Evaluation, wanted: list[CocoResult], beside: Beside
) -> tuple[DetectionResult, dict[str, Any]]:
    """Return the evaluation beside the references, and a description of those."""
    detection, reference = _result(evaluation), dict[str, Any]()
    if beside.results is not None:
        detection = replace(detection, parity=_compare(evaluation, wanted, beside.results.name))
        reference |= {"name": beside.results.name, "sha256": sha256(beside.results)}
    if beside.checkpoint is not None:
        from verify.detections.stages import compare_stages

        with open_checkpoint(beside.checkpoint) as source:
            stages, described = compare_stages(evaluation, source)
            files = describe_files(source.files(), checksums=True)
            reference |= described | {"source": source.path.name, "files": files}
        detection = replace(detection, stages=stages)
    return detection, reference


def _require_comparable(settings: CocoSettings, beside: Beside) -> None:
    if settings.split == TEST_DEV and beside != Beside():
        raise EvaluationError("testdev has no annotations and nothing to compare with: leave the references out")
    if beside.checkpoint is not None and settings.limit is None:
        raise ConfigError("TensorFlow runs beside PyTorch for seconds per image: choose a few images with --limit N")


def _described(evaluation: Evaluation) -> dict[str, Any]:
    """Return what a report says of a model's file."""
    path = evaluation.path
    return {**describe_files([path], checksums=True)[0], "path": path.name, "metadata": evaluation.metadata}


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
        **evaluation.own_settings,
        "device": str(evaluation.predictor.device),
        "split": evaluation.split.name,
        "annotations": evaluation.split.path.name,
        "annotations_sha256": evaluation.split.checksum,
        "threads": torch.get_num_threads(),
        "processes": processes.count,
    }
