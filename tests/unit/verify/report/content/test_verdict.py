"""The verdict in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.verification_samples import (
    DETECTION,
    EVALUATED,
    EXPORTED,
    FAILING,
    PASSING,
    SAMPLES,
    WRONG_DETECTION,
    WRONGLY_EXPORTED,
    WRONGLY_FUSED,
    part_of,
)
from verify.report.content.verdict import advice, basis, headline
from verify.results.verification import AuditResult, DType, Mode, TensorFinding, UnusableValues, Verification

WRONG_TENSOR = AuditResult(2, (TensorFinding("fpn.x", "missing"),), {})
UNUSABLE = AuditResult(2, (UnusableValues("fpn.x", "NaN"), UnusableValues("fpn.y", "NaN"), *WRONG_TENSOR.findings), {})
UNUSABLE_SENTENCE = "The converted file holds values that no network can use: fpn.x: NaN (and 1 more)."


@pytest.mark.parametrize(
    ("verification", "sentence", "passed"),
    [
        (PASSING, "The two networks compute the same outputs.", True),
        (replace(PASSING, audit=None, detection=DETECTION), "The two networks compute the same outputs.", True),
        (FAILING, "The two networks do not compute the same outputs.", False),
        (replace(FAILING, detection=WRONG_DETECTION), "The two networks do not compute the same outputs.", False),
        (EXPORTED, "The exported file computes the outputs of its reference.", True),
        (WRONGLY_EXPORTED, "The exported file does not compute the outputs of its reference.", False),
        (WRONGLY_FUSED, "The fused network does not compute the outputs of the converted model.", False),
        (
            replace(WRONGLY_FUSED, audit=WRONG_TENSOR),
            "The converted file does not hold the checkpoint's weights.",
            False,
        ),
        (replace(FAILING, audit=UNUSABLE), UNUSABLE_SENTENCE, False),
        (replace(PASSING, audit=UNUSABLE), UNUSABLE_SENTENCE, False),
        (replace(PASSING, audit=WRONG_TENSOR), "The converted file does not hold the checkpoint's weights.", False),
        (replace(PASSING, detection=WRONG_DETECTION), "The detections differ from what was expected", False),
        (replace(PASSING, layers=()), "Nothing was compared.", False),
        (EVALUATED, "The detections are as expected.", True),
        (SAMPLES["evaluated_only"], "The model was evaluated; nothing was compared.", True),
        (SAMPLES["evaluated_wrong"], "The detections differ from what was expected. Failed: published AP", False),
    ],
)
def test_headline_and_verdict(verification: Verification, sentence: str, passed: bool) -> None:
    assert headline(verification).startswith(sentence)
    assert verification.passed is passed


@pytest.mark.parametrize(
    ("modes", "dtypes", "ran"),
    [
        (("cumulative",), ("float32",), "cumulative, float32"),
        (("isolated",), ("float64",), "isolated, float64"),
        (("cumulative",), ("float64", "float32"), "cumulative, float64 and float32"),
        (("isolated", "cumulative"), ("float32",), "isolated and cumulative, float32"),
        (("isolated", "cumulative"), ("float64", "float32"), "isolated and cumulative, float64 and float32"),
        (("fused",), ("float64", "float32"), "fused, float64 and float32"),
        (("isolated", "cumulative", "fused"), ("float32",), "isolated, cumulative and fused, float32"),
    ],
)
def test_a_part_of_the_runs_does_not_claim_the_same_outputs(
    modes: tuple[Mode, ...], dtypes: tuple[DType, ...], ran: str
) -> None:
    part = part_of(PASSING, modes, dtypes)
    assert headline(part) == f"All layers agree in what was run: {ran} only."
    assert part.verdict == "PASS"


def test_an_evaluation_alone_is_no_pass() -> None:
    alone = SAMPLES["evaluated_only"]
    assert (alone.verdict, alone.passed) == ("EVALUATED", True)
    assert replace(alone, required="graph").verdict == "FAIL"  # its claim is weaker
    assert replace(alone, required="config").verdict == "EVALUATED"
    for part in ("published", "parity", "stages"):
        compared = {"published": None, "parity": None, "stages": ()} | {part: getattr(DETECTION, part)}
        detection = replace(DETECTION, **compared)
        assert replace(alone, detection=detection).verdict == "PASS"
    for name, report in SAMPLES.items():
        assert (report.verdict == "FAIL") == (not report.passed), name
        unproven = report.detection is not None and not report.detection.compared and not report.layers
        assert (report.verdict == "EVALUATED") == (unproven and report.passed), name


def test_an_image_size_of_ones_own_stands_beside_the_settings() -> None:
    def with_size(height: int, width: int) -> Verification:
        own = {**EVALUATED.model["metadata"], "config": {"image_size": [512, 512]}}
        settings = {**EVALUATED.settings, "image_size": [height, width]}
        return replace(EVALUATED, model={**EVALUATED.model, "metadata": own}, settings=settings)

    assert basis(with_size(256, 300)).endswith("image size 300x256 by --image-size, not the model's 512x512")
    assert "--image-size" not in basis(with_size(512, 512))  # negative control
    assert "--image-size" not in basis(replace(with_size(256, 300), detection=None))  # layers agree at any size


def test_another_profile_is_the_first_guess_where_detections_differ() -> None:
    assert "made with another profile than official-eval" in " ".join(advice(SAMPLES["evaluated_wrong"]))
    assert not list(advice(EVALUATED))  # negative control


def test_untrained_parts_stand_below_the_verdict() -> None:
    metadata = {**EVALUATED.model["metadata"], "untrained": ["class and box predictions"]}
    (text,) = advice(replace(EVALUATED, model={**EVALUATED.model, "metadata": metadata}))
    assert text.startswith("UNTRAINED class and box predictions: ")
