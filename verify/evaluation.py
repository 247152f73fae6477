"""The detections of a converted model: evaluated on COCO, and compared with whatever there is to compare with."""

from __future__ import annotations

import time
from collections.abc import Callable
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
from effdet_torch.inference.partial_results import remove_leftovers
from effdet_torch.metrics.coco import CocoResult
from effdet_torch.outputs.paths import NO_FILES, RunFiles, is_stream
from effdet_torch.processes import ALONE, Processes
from effdet_torch.processing.profiles import PROFILES
from effdet_torch.terminal.bar import part_of
from verify.detections.comparison import compare_models
from verify.detections.details import details_of
from verify.detections.matching import compare_detections, matching_limits
from verify.detections.published import compare_with_published
from verify.detections.results_file import read_results
from verify.detections.run import ORIGIN, CocoSettings, Evaluation, Prepared, evaluate, prepare, read_images
from verify.results.claim import Requirement
from verify.results.detections import DetectionParity, DetectionResult
from verify.results.verification import Verification
from verify.subjects.subject import is_converted
from verify.verification import versions

if TYPE_CHECKING:
    from effdet_torch.terminal.bar import Progress


MODEL, REFERENCE, OTHER = "model", "reference", "other"  # roles of what is evaluated


@dataclass(frozen=True)
class Beside:
    """What there is to compare a model's detections with.

    Attributes:
        results: detections in COCO's results format.
        checkpoint: the model's TensorFlow checkpoint, to run beside it stage by stage on the same images; or, of an
            exported file, the converted file that it was made from, whose detections are then the expected ones. Both
            run on the CPU unless a device is chosen.
        model: another converted model, evaluated on the same images; that proves nothing about either.
    """

    results: Path | None = None
    checkpoint: Path | str | None = None
    model: Path | None = None

    @property
    def converted(self) -> Path | None:
        """The converted file that an exported one was made from."""
        return Path(self.checkpoint) if self.checkpoint is not None and is_converted(self.checkpoint) else None


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
    prepared = _prepare(path, source, settings, beside, processes)
    evaluated, finished = dict[str, Evaluation | None](), list[Callable[[], None]]()
    for n, (role, each) in enumerate(prepared.items()):
        outputs = (out, None) if role == MODEL else (None, _kept_beside(out, role))
        shown = part_of(progress, n, len(prepared))
        evaluated[role] = evaluate(each, outputs[0], processes, shown, files, outputs[1], finished)
    for remove in finished:  # of all models only now: until then each of them can be resumed
        remove()
    for role in {REFERENCE, OTHER} - prepared.keys():  # an interrupted run had them beside the same results
        if processes.rank == 0 and (kept := _kept_beside(out, role)) is not None:
            remove_leftovers(kept, ORIGIN)
    evaluation, expected, other = (evaluated.get(role) for role in (MODEL, REFERENCE, OTHER))
    if evaluation is None:
        return None
    detection, reference = _compared(evaluation, expected.results if expected is not None else wanted, beside)
    if evaluation.boxes is not None:
        detection = replace(detection, details=details_of(evaluation))
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


def _kept_beside(out: Path | None, role: str) -> Path | None:
    """Return where the partial results of a second model are kept: beside those of the first, if these are kept."""
    return None if out is None or is_stream(out) else out.with_name(f"{out.name}.{role}")


def _prepare(
    path: Path, source: DataSource, settings: CocoSettings, beside: Beside, processes: Processes
) -> dict[str, Prepared]:
    """Load the model and whatever is evaluated beside it before the first image; {role: model}."""
    images = read_images(source, settings)
    prepared = {MODEL: prepare(path, images, settings, processes)}
    settings = replace(settings, profile=settings.profile or prepared[MODEL].predictor.profile)  # for all the same
    if beside.converted is not None:
        predictor = prepared[MODEL].predictor
        alike = replace(settings, backend=None, image_size=predictor.config.image_size)
        reference = prepare(beside.converted, images, alike, processes)
        if reference.predictor.profile != predictor.profile:
            raise ConfigError(
                f"{path} makes its detections with another profile than {beside.converted}: choose a --profile that "
                "both can use, or export the file again without --nms"
            )
        prepared[REFERENCE] = reference
    if beside.model is not None:
        try:
            prepared[OTHER] = prepare(beside.model, images, settings, processes, own_names=True)
        except EffdetError as error:
            raise EvaluationError(f"--compare {beside.model.name}: {error}") from error
    return prepared


def _compared(
    evaluation: Evaluation, wanted: list[CocoResult], beside: Beside
) -> tuple[DetectionResult, dict[str, Any]]:
    """Return the evaluation beside the references, and a description of those."""
    detection, reference = _result(evaluation), dict[str, Any]()
    if (expected := beside.converted or beside.results) is not None:
        detection = replace(detection, parity=_compare(evaluation, wanted, expected.name))
        reference |= {"name": expected.name, "sha256": sha256(expected)}
    if beside.checkpoint is not None and beside.converted is None:
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
    if beside.converted is not None and beside.results is not None:
        raise ConfigError("--reference is a converted file, so its detections count: leave --reference-results out")
    if beside.checkpoint is not None and beside.converted is None and settings.limit is None:
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
        profile=evaluation.profile,
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
    limits = matching_limits(evaluation.predictor.engine)
    return compare_detections(evaluation.results, expected, split.image_ids, source, split.dataset, evaluator, limits)


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
        "nms_inside": evaluation.predictor.has_nms_inside,
    }
