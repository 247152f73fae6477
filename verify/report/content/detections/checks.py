"""What an evaluation found: its checks, its metrics, and the sections on them and on the data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from effdet_torch.terminal.text import counted
from verify.report.content.section import Columns, Failed, Section
from verify.report.content.text import percent
from verify.results.detections import (
    AP_TOLERANCE,
    MATCHED_MIN_SCORE,
    MIN_MATCHED_SHARE,
    PUBLISHED_TOLERANCE,
    DetectionParity,
    DetectionResult,
)
from verify.results.verification import Verification

FEW_IMAGES = 100


class Check(NamedTuple):
    """One comparison of an evaluation, ready to print."""

    name: str
    sentence: str
    passed: bool


def evaluation(verification: Verification) -> Iterator[Section]:
    """Yield what was compared, the notes on the data set, and the metrics."""
    detection = verification.detection
    if detection is None:
        return
    columns: Columns = {"check": "text", "verdict": "text", "found": "text"}
    verdicts = {True: "pass", False: Failed("FAIL")}
    rows = tuple((check.name, verdicts[check.passed], check.sentence) for check in checks(detection))
    lines = (detection_sentence(detection), *_input_size(verification), *_limits(verification))
    yield Section("Detections", lines, columns, rows, failed=not detection.passed)
    if detection.notes:
        yield Section("Data set", tuple(note.sentence for note in detection.notes))
    metrics = metric_rows(detection)
    if metrics:
        columns = {"precision": "text", "AP": "number", "recall": "text", "AR": "number"}
        half = len(metrics) // 2
        pairs = tuple(left + right for left, right in zip(metrics[:half], metrics[half:], strict=True))
        yield Section("COCO metrics, 0 to 100", columns=columns, rows=pairs)


def _input_size(verification: Verification) -> Iterator[str]:
    """Yield the size of the network input where it is not the model's own."""
    used = verification.settings.get("image_size")
    own = verification.model.get("metadata", {}).get("config", {}).get("image_size", used)
    if used is not None and list(own) != list(used):
        sizes = "{1}x{0} pixels, not the {3}x{2} (width x height)".format(*used, *own)
        yield f"The network input was {sizes} of the model, which was trained for its own size."


def _limits(verification: Verification) -> Iterator[str]:
    """Yield why there are so many detections, and what few images are worth."""
    profile, detection = verification.settings.get("profile"), verification.detection
    if detection is None or not detection.metrics:
        return
    if isinstance(profile, Mapping) and (most := profile.get("max_detections")):
        yield f"An image has up to {most} detections, whatever their scores: AP takes them all."
    if verification.settings.get("nms_inside"):
        yield f"The NMS is inside the file, so the profile is its own, {detection.profile}."
    if detection.images < FEW_IMAGES:
        yield f"On fewer than {FEW_IMAGES} images a class has few objects: small differences in AP mean little."


def checks(detection: DetectionResult) -> Iterator[Check]:
    """Yield all that was compared: the published AP, the expected detections, the stages."""
    if (ap := detection.published) is not None:
        yield Check(
            "published AP",
            f"AP {ap.measured:.2f}, published for {ap.checkpoint}: {ap.published:.1f} "
            f"(allowed difference {PUBLISHED_TOLERANCE}).",
            ap.passed,
        )
    if detection.parity is not None:
        yield Check("reference results", _parity_sentence(detection.parity), detection.parity.passed)
    for stage in detection.stages:
        where = "" if stage.image_id is None else f", image {stage.image_id}"
        sentence = f"{stage.measure} {stage.error:.2g}, allowed {stage.tolerance:.2g}{where}."
        yield Check(f"stage {stage.stage}", sentence, stage.passed)


def metric_rows(detection: DetectionResult) -> list[tuple[str, str]]:
    """Return name and value of COCO's 12 numbers, in 0..100; "n/a" where there is nothing to find."""
    return [(name, percent(value)) for name, value in detection.metrics.items()]


def detection_sentence(detection: DetectionResult) -> str:
    """Return what was evaluated."""
    evaluator = f"; metrics by {detection.evaluator}" if detection.evaluator else ""
    return (
        f"{counted(detection.detections, 'detection')} in {counted(detection.images, 'image')}, "
        f"{'all' if detection.complete else 'part'} of {detection.split}; profile {detection.profile}{evaluator}."
    )


def _parity_sentence(parity: DetectionParity) -> str:
    points = f"{100 * (parity.ap_difference or 0):+.4f} points, allowed {100 * AP_TOLERANCE:g}"
    ap = "" if parity.ap_difference is None else f"; AP difference {points}"
    first = "" if parity.first_difference is None else f"; first image that differs: {parity.first_difference}"
    total = (
        f"{parity.expected + parity.surplus} detections ({parity.expected} in {parity.source}, {parity.surplus} more)"
    )
    return (
        f"{parity.matched} of {total} matched: {100 * parity.matched_share:.2f} %, "
        f"required {100 * MIN_MATCHED_SHARE:.1f} %; largest error "
        f"{parity.max_box_error_px:.2g} px in a box, {parity.max_score_error:.2g} in a score; "
        f"scores below {MATCHED_MIN_SCORE} do not count{ap}{first}."
    )
