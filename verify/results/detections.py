"""What an evaluation of detections found, as plain values: part of every report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from effdet_torch.data.rules import Note
from verify.results.details import Comparison, Details

PUBLISHED_TOLERANCE = 0.1  # AP points; published values have one decimal
MIN_MATCHED_SHARE = 0.995
AP_TOLERANCE = 5e-4
MATCHED_ERRORS = 0.5, 1e-3  # largest ones of a pair that matches: of a coordinate, in pixels, and of a score
MATCHED_MIN_SCORE = 0.05
HALF_ERRORS = 5.0, 5e-2  # the same for files in half precision, whose outputs are right to 1e-1 of their rms


@dataclass(frozen=True)
class PublishedAP:
    """A published AP beside the measured one, both in 0..100.

    Attributes:
        checkpoint: name of the official checkpoint.
        published: AP on val2017.
        measured: AP on all of val2017.
    """

    checkpoint: str
    published: float
    measured: float

    @property
    def passed(self) -> bool:
        """Whether both agree to 0.1 points."""
        return abs(self.measured - self.published) <= PUBLISHED_TOLERANCE + 1e-9  # 34.4 - 34.3 is more than 0.1


@dataclass(frozen=True)
class DetectionParity:
    """Found detections against expected ones, one to one per image and class.

    Only detections with a score of at least 0.05 on either side count.

    Attributes:
        source: where the expected ones came from.
        expected: number of expected detections.
        surplus: found detections without a counterpart.
        matched: pairs of one class, with boxes within 0.5 px and scores within 1e-3; of a file in half precision, 5 px
            and 5e-2.
        max_box_error_px: largest distance of a coordinate over all pairs whose boxes overlap by half, matched or not.
        max_score_error: likewise.
        ap_difference: AP of the found minus AP of the expected ones, in 0..1; None without annotations.
        first_difference: id of the first image with a detection that is not matched.
    """

    source: str
    expected: int
    surplus: int
    matched: int
    max_box_error_px: float
    max_score_error: float
    ap_difference: float | None = None
    first_difference: int | None = None

    @property
    def matched_share(self) -> float:
        """Matched pairs over expected and surplus detections, in 0..1."""
        total = self.expected + self.surplus
        return self.matched / total if total else 1.0

    @property
    def passed(self) -> bool:
        """Whether at least 99.5 % are matched and the APs agree to 0.0005."""
        return self.matched_share >= MIN_MATCHED_SHARE and abs(self.ap_difference or 0.0) <= AP_TOLERANCE


@dataclass(frozen=True)
class StageResult:
    """One stage from image file to AP, ours on the reference's own input.

    Attributes:
        stage: "pixels", "logits", "boxes", "NMS", "metric".
        measure: what `error` is, with its unit.
        error: largest over all images.
        tolerance: largest error that passes.
        image_id: where the error is largest; None for a stage over all images.
    """

    stage: str
    measure: str
    error: float
    tolerance: float
    image_id: int | None

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; NaN is not."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class DetectionResult:
    """An evaluation on COCO.

    Attributes:
        split: "val2017", "testdev", ...
        profile: name of the postprocessing profile.
        images: how many were evaluated.
        detections: how many were found.
        metrics: COCO's 12 numbers in 0..1, -1 where there is nothing to find; empty without annotations.
        evaluator: library that computed them, and its version; empty without annotations.
        complete: whether all images of the split were evaluated.
        published: only for an official checkpoint on all of val2017.
        parity: only where detections were compared.
        stages: only where a TensorFlow checkpoint was given, in order; the first that fails is where to look.
        notes: what was repaired, dropped and assumed in the data set.
        details: classes, confusions and images; None without annotations.
        comparison: only where another model was evaluated beside this one; it proves nothing.
    """

    split: str
    profile: str
    images: int
    detections: int
    metrics: Mapping[str, float]
    complete: bool
    evaluator: str = ""
    published: PublishedAP | None = None
    parity: DetectionParity | None = None
    stages: tuple[StageResult, ...] = ()
    notes: tuple[Note, ...] = ()
    details: Details | None = None
    comparison: Comparison | None = None

    @property
    def compared(self) -> bool:
        """Whether there was anything to compare with; an evaluation alone proves nothing."""
        return any((self.published, self.parity, *self.stages))

    @property
    def passed(self) -> bool:
        """Whether every comparison agrees; an evaluation without comparisons passes."""
        return all(check is None or check.passed for check in (self.published, self.parity, *self.stages))
