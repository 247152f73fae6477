"""What all reports say alike about detections: a headline, the 12 numbers, and one line per check."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from verify.detection_results import (
    AP_TOLERANCE,
    MIN_MATCHED_SHARE,
    PUBLISHED_TOLERANCE,
    DetectionParity,
    DetectionResult,
    PublishedAP,
    StageResult,
)


class Check(NamedTuple):
    """One comparison of an evaluation, ready to print."""

    name: str
    sentence: str
    passed: bool


def detection_headline(detection: DetectionResult) -> str:
    """Return the verdict about the detections in one sentence."""
    failed = [check.name for check in checks(detection) if not check.passed]
    if failed:
        return f"The detections are not as expected: {', '.join(failed)}."
    if list(checks(detection)):
        return "The detections are as expected."
    return "The model was evaluated; nothing was compared."


def detection_sentence(detection: DetectionResult) -> str:
    """Return what was evaluated."""
    part = "all of" if detection.complete else "a part of"
    return (
        f"{detection.detections} detections in {detection.images} images, {part} {detection.split}; "
        f"profile {detection.profile}."
    )


def metric_rows(detection: DetectionResult) -> list[tuple[str, str]]:
    """Return name and value of COCO's 12 numbers, in 0..100; -1 where there is nothing to find."""
    return [(name, "-1" if value < 0 else f"{100 * value:.2f}") for name, value in detection.metrics.items()]


def checks(detection: DetectionResult) -> Iterator[Check]:
    """Yield all that was compared: the published AP, the expected detections, the stages."""
    if detection.published is not None:
        yield Check("published AP", _published(detection.published), detection.published.passed)
    if detection.parity is not None:
        yield Check("expected detections", _parity(detection.parity), detection.parity.passed)
    for stage in detection.stages:
        yield Check(f"stage {stage.stage}", _stage(stage), stage.passed)


def _published(published: PublishedAP) -> str:
    return (
        f"AP {published.measured:.2f}, published for {published.checkpoint}: {published.published:.1f} "
        f"(allowed difference {PUBLISHED_TOLERANCE})."
    )


def _parity(parity: DetectionParity) -> str:
    ap = "" if parity.ap_difference is None else f"; AP difference {parity.ap_difference:+.6f}, allowed {AP_TOLERANCE}"
    first = "" if parity.first_difference is None else f"; first image that differs: {parity.first_difference}"
    return (
        f"{parity.matched} of {parity.expected} detections of {parity.source} matched, {parity.surplus} surplus: "
        f"{100 * parity.matched_share:.2f} %, required {100 * MIN_MATCHED_SHARE:.1f} %; largest error "
        f"{parity.max_box_error_px:.2g} px in a box, {parity.max_score_error:.2g} in a score{ap}{first}."
    )


def _stage(stage: StageResult) -> str:
    where = "" if stage.image_id is None else f", image {stage.image_id}"
    return f"{stage.measure} {stage.error:.2g}, allowed {stage.tolerance:.2g}{where}."
