"""COCO evaluation of a converted model: the 12 numbers as the official code computes them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet_torch.config import SCORE_THRESHOLD
from effdet_torch.data.classes import fit_classes
from effdet_torch.data.clean import require_objects
from effdet_torch.data.dataset import DataImage, DataSet
from effdet_torch.data.files import check_images
from effdet_torch.data.sources import DataSource
from effdet_torch.engines.table import is_exported
from effdet_torch.errors import ConfigError, UsageError
from effdet_torch.file_format import sha256
from effdet_torch.inference.detect_data import detect_data
from effdet_torch.inference.partial_results import PartialResults, image_key
from effdet_torch.inference.predict import Predictor
from effdet_torch.inference.runtime import make_engine
from effdet_torch.metrics.coco import BoxEvaluation, CocoResult, evaluate_boxes
from effdet_torch.metrics.evaluators import AUTO, Evaluator, get_evaluator
from effdet_torch.outputs.atomic import write_json
from effdet_torch.outputs.paths import NO_FILES, RunFiles, is_folder
from effdet_torch.processes import ALONE, Processes
from effdet_torch.processing.profiles import Profile, profile_name
from verify.detections.results_file import submission_name, to_submission

if TYPE_CHECKING:
    from effdet_torch.terminal.bar import Progress

LOG = logging.getLogger("effdet")
# What the first line of partial results holds.
ORIGIN = ("model", "annotations", "profile", "split", "limit", "image_size", "device", "runtime")


@dataclass(frozen=True)
class CocoSettings:
    """How to evaluate.

    Attributes:
        split: of the data set: "val2017", "testdev" (no metrics), ...; None takes the layout's default.
        limit: only the images of the lowest ids; None takes all.
        batch: images per step; detections do not depend on it on the CPU.
        workers: processes that read and prepare images; 0 does it in this one.
        device: "cpu", "cuda", "cuda:1", ...; None takes the GPU if there is one. For "cuda" every process of a
            distributed run takes its own GPU.
        backend: runtime that the model is exported for, see `Predictor`; None runs the file as it is.
        profile: a postprocessing profile or its name; None takes that of a file with NMS inside, else "official-eval".
        image_size: (height, width) of the network input; None takes the model's.
        labels: file with the names of the model's classes; None takes the model's own.
        evaluator: what computes the metrics, see `effdet_torch.metrics.evaluators.get_evaluator`.
        score: least score of the detections in the confusion matrix and in the images shown; metrics take all.
        shown: how many images to show, the worst first.
        pictures: whether these are drawn.

    Raises:
        ConfigError: A number is too small or too large.
    """

    split: str | None = None
    limit: int | None = None
    batch: int = 8
    workers: int = 2
    device: str | None = None
    backend: str | None = None
    profile: str | Profile | None = None
    image_size: tuple[int, int] | None = None
    labels: Path | None = None
    evaluator: str = AUTO
    score: float = SCORE_THRESHOLD
    shown: int = 8
    pictures: bool = False

    def __post_init__(self) -> None:
        for name, least in (("limit", 1), ("batch", 1), ("workers", 0), ("shown", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; expected at least {least}")
        if not 0 <= self.score <= 1:
            raise ConfigError(f"score is {self.score}; expected 0 to 1")


@dataclass(frozen=True)
class Prepared:
    """A model and the images to evaluate it on, both checked.

    Attributes:
        path: of the model.
        settings: how to evaluate it.
        predictor: with the model.
        split: the images.
        complete: whether these are all of the split.
        evaluator: what computes the metrics.
    """

    path: Path
    settings: CocoSettings
    predictor: Predictor
    split: DataSet
    complete: bool
    evaluator: Evaluator

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the model's file."""
        return self.predictor.engine.metadata

    @property
    def profile(self) -> str:
        """The name of the profile: the one that was chosen, which may be "model"."""
        chosen = self.settings.profile
        return chosen if isinstance(chosen, str) else profile_name(self.predictor.profile)

    @property
    def own_settings(self) -> dict[str, Any]:
        """The settings that depend on the model unless they are chosen."""
        profile = {"name": self.profile, **asdict(self.predictor.profile)}
        return {"image_size": list(self.predictor.config.image_size), "profile": profile}


@dataclass(frozen=True)
class Evaluation(Prepared):
    """The outcome.

    Attributes:
        results: detections by ascending image id, best first.
        boxes: the detections, compared with the annotations; None for testdev.
    """

    results: list[CocoResult]
    boxes: BoxEvaluation | None

    @property
    def metrics(self) -> Mapping[str, float]:
        """COCO's 12 numbers in 0..1; empty for testdev."""
        return {} if self.boxes is None else self.boxes.metrics


def read_images(source: DataSource, settings: CocoSettings) -> tuple[DataSet, bool]:
    """Return the images of a data set, checked, and whether they are all of the split.

    Raises:
        EvaluationError: The images or the annotations must be refused.
    """
    whole = source.read(settings.split)
    split = whole.first(settings.limit)
    LOG.info("read the data set %s: %d of %d images", split.name, len(split.images), len(whole.images))
    return check_images(require_objects(split)), len(split.images) == len(whole.images)


def prepare(
    path: Path,
    images: tuple[DataSet, bool],
    settings: CocoSettings,
    processes: Processes = ALONE,
    own_names: bool = False,
) -> Prepared:
    """Load a model, and give the categories of a data set its numbers.

    Args:
        path: a converted model.
        images: see `read_images`.
        settings: how to evaluate.
        processes: of a distributed run.
        own_names: whether names in the model's file come before those of `settings`.

    Raises:
        EffdetError: The model, the classes or a setting does not fit.
    """
    evaluator = get_evaluator(settings.evaluator)
    predictor = predictor_for(path, settings, processes.rank, own_names)
    if not predictor.config.detects:
        raise ConfigError(f"{path} has only a segmentation head, and --coco evaluates boxes; pass a detector")
    split, complete = images
    split = fit_classes(split, predictor.config.num_classes, predictor.label_map)
    return Prepared(path, settings, predictor, split, complete, evaluator)


def evaluate(
    prepared: Prepared,
    out: Path | None = None,
    processes: Processes = ALONE,
    progress: Progress | None = None,
    files: RunFiles = NO_FILES,
    keep: Path | None = None,
    finished: list[Callable[[], None]] | None = None,
) -> Evaluation | None:
    """Detect in the images, write the results, compute the metrics; None in all processes but the first.

    Args:
        prepared: the model and the images.
        out: results file; an interrupted run is resumed. For testdev the submission, with its own name by default.
        processes: of a distributed run.
        progress: called with (done, total) images.
        files: what else the run reads and writes.
        keep: beside which partial results are kept; by default `out`.
        finished: takes what removes the partial results; by default they are removed once `out` is written.

    Raises:
        EffdetError: An image or a partial result cannot be used; or `out` or one of `files` would overwrite a file of
            the data set.
    """
    split = prepared.split
    test_dev = not split.has_truth
    if test_dev and (out is None or is_folder(out)):
        out = (out or Path()) / submission_name(prepared.path)
    if out is not None and is_folder(out):
        raise UsageError(f"--results {out} is a directory; name a file")
    read = (prepared.path, split.path, *dict.fromkeys(image.path for image in split.images))
    files.require_apart(read, [] if out is None else [("--results", out)])
    kept = PartialResults(keep or out, partial(_origin, prepared), processes.rank)
    processes.wait()  # until all have read what an interrupted run left, before one of them writes
    gathered = processes.gather(_detect_share(prepared, kept, processes, progress))
    if processes.rank != 0:
        return None
    by_image = {image_id: detections for part in gathered for image_id, detections in part.items()}
    results = [result for image_id in split.image_ids for result in by_image[image_id]]
    if out is not None:
        write_json(out, to_submission(results) if test_dev else results, indent=None)
    if finished is None:
        kept.remove()
    else:
        finished.append(kept.remove)
    evaluator = prepared.evaluator.name
    boxes = None if test_dev else evaluate_boxes(split.dataset, results, split.image_ids, evaluator)
    LOG.info("computed %s", "nothing: no annotations" if test_dev else f"the metrics with {prepared.evaluator}")
    return Evaluation(**vars(prepared), results=results, boxes=boxes)


def predictor_for(path: Path, settings: CocoSettings, rank: int = 0, own_names: bool = False) -> Predictor:
    """Load a model as the settings say; see `prepare` and `Predictor`."""
    engine = make_engine(
        path,
        device=settings.device,
        rank=rank,
        check_values=not is_exported(path),
        backend=settings.backend,
        image_size=settings.image_size,
    )
    labels = None if own_names and engine.config.label_map else settings.labels
    return Predictor(
        engine,
        profile=settings.profile or getattr(engine, "profile", None) or "official-eval",
        image_size=settings.image_size,
        score_threshold=0,  # metrics take all
        label_map=labels,
    )


def _origin(prepared: Prepared) -> dict[str, Any]:
    """Return all that detections depend on; how many are made at a time, and by how many workers, is not part of it."""
    settings = prepared.settings
    values = (
        sha256(prepared.path),
        prepared.split.checksum,
        asdict(prepared.predictor.profile),
        prepared.split.name,
        settings.limit,
        settings.image_size,
        prepared.predictor.device_type,
        prepared.predictor.runtime,
    )
    return dict(zip(ORIGIN, values, strict=True))


def _detect_share(
    prepared: Prepared, kept: PartialResults, processes: Processes, progress: Progress | None
) -> dict[int, list[CocoResult]]:
    """Return {image id: detections} of this process's share of the images; those kept of an interrupted run count."""
    keys = {image.image_id: _key(image) for image in prepared.split.images}
    if processes.rank == 0:
        kept.tell_resumed(sum(key in kept.done for key in keys.values()), len(keys))
    # Shared before it is known which are done: files of another machine may have other times.
    share = processes.share(prepared.split.images)
    done = {image.image_id: kept.done[keys[image.image_id]] for image in share if keys[image.image_id] in kept.done}
    images, settings = [image for image in share if image.image_id not in done], prepared.settings
    for image, detections in detect_data(prepared.predictor, images, settings.batch, settings.workers):
        done[image.image_id] = detections
        kept.add(keys[image.image_id], detections)
        if progress is not None:
            progress(len(done), len(share))
    LOG.info("detected objects on %s; images: %d", prepared.predictor.device, len(images))
    return done


def _key(image: DataImage) -> str:
    """Return a text that changes when the file of an image does, or the frame that boxes refer to."""
    return f"{image.image_id} {'turned' if image.turned else 'stored'} {image_key(image.source)}"
