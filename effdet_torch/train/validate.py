"""COCO metrics of a model in training: every process detects in its share of the images."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

from effdet_torch.data.dataset import DataSet
from effdet_torch.inference.detect_data import detect_data
from effdet_torch.inference.predict import Predictor
from effdet_torch.metrics.classes import ClassMetrics, class_metrics
from effdet_torch.metrics.coco import BoxEvaluation, evaluate_boxes
from effdet_torch.metrics.columns import CocoResult
from effdet_torch.metrics.evaluators import AUTO
from effdet_torch.network.model import EfficientDet
from effdet_torch.processes import ALONE, Processes
from effdet_torch.processing.profiles import Profile


class Validation(NamedTuple):
    """How good a model is.

    Attributes:
        boxes: the detections, compared with the annotations; `boxes.metrics` are COCO's 12 numbers.
        classes: the numbers of every class, by ascending id.
        results: the detections by ascending image id, best first; what a COCO results file holds.
    """

    boxes: BoxEvaluation
    classes: list[ClassMetrics]
    results: list[CocoResult]


def validate(
    model: EfficientDet,
    data: DataSet,
    processes: Processes = ALONE,
    *,
    batch: int = 8,
    workers: int = 2,
    profile: str | Profile = "official-eval",
    evaluator: str = AUTO,
    progress: Callable[[int, int], object] | None = None,
) -> Validation | None:
    """Detect in the images with rank 0's model, and compare with the annotations; None in all processes but the first.

    A copy of the model is run, so the model keeps its mode, its memory layout and its batch norms. Every process gets
    rank 0's values: the metrics are those of the file that it saves, whatever the statistics of the others are.

    Args:
        model: on its device, in any mode; with averages, inside `Averages.swapped`.
        data: the same in all processes, with the model's class numbers, see `fit_classes`.
        processes: each detects in every `count`-th image, so that none is counted twice.
        batch: images per step; detections do not depend on it on the CPU.
        workers: processes that read images; 0 does it in this one.
        profile: how detections are made, see `effdet_torch.processing.profiles`.
        evaluator: what computes the metrics, see `effdet_torch.metrics.evaluators.get_evaluator`.
        progress: called with (done, total) images of this process.

    Raises:
        ImageError: An image cannot be read.
        NonFiniteOutputError: The network returned NaN or infinity for an image.
        ConfigError: A setting does not exist.
    """
    images, found = processes.share(data.images), dict[int, list[CocoResult]]()
    for image, results in detect_data(_predictor(model, processes, profile), images, batch, workers):
        found[image.image_id] = results
        if progress is not None:
            progress(len(found), len(images))
    gathered = processes.gather(found)
    if processes.rank != 0:
        return None
    by_image = {image_id: results for part in gathered for image_id, results in part.items()}
    joined = [result for image_id in data.image_ids for result in by_image[image_id]]
    boxes = evaluate_boxes(data.dataset, joined, data.image_ids, evaluator)
    return Validation(boxes, class_metrics(boxes, data.categories), joined)


def _predictor(model: EfficientDet, processes: Processes, profile: str | Profile) -> Predictor:
    copy = deepcopy(model)
    processes.broadcast_tensors(copy.state_dict().values())
    return Predictor(copy, profile=profile, score_threshold=0)  # metrics take all
