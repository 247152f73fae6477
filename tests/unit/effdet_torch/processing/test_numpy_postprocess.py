"""Detections of the CPU path against those of the torch version; `tests/parity` compares both with official results."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from effdet_torch.config import get_config
from effdet_torch.errors import ConfigError, NonFiniteOutputError
from effdet_torch.geometry.anchors import anchors_yxyx
from effdet_torch.processing import numpy_postprocess
from effdet_torch.processing import postprocess as in_torch
from effdet_torch.processing.numpy_candidates import best_class, gather, maxima, top_k
from effdet_torch.processing.numpy_postprocess import Detections, postprocess
from effdet_torch.processing.profiles import PROFILES, Profile

CONFIG = get_config("d0", image_size=(96, 160), num_classes=6)
ANCHORS = anchors_yxyx(CONFIG)
Outputs = tuple[list[np.ndarray], list[np.ndarray]]
CASES: dict[str, Profile] = {
    **PROFILES,
    "few": Profile("best_class", max_detections=7),
    "many": Profile(sigma=0.5, score_threshold=0.001, max_detections=1000),
    "best class of every class": Profile("best_class", sigma=0.5, score_threshold=0.3),
    "few candidates": Profile(max_candidates=40),
    "top k of all classes": replace(PROFILES["serving"], candidates="top_k", max_candidates=300),
    "nothing scores that much": Profile(score_threshold=1.0),
    "all score more": Profile(sigma=0.5, score_threshold=0.0, max_detections=20),
}


def outputs(seed: int = 0, ties: bool = False, mean: float = 0.0) -> Outputs:
    """Class logits and box deltas of one image per level."""
    random = np.random.default_rng(seed)
    sizes = list(CONFIG.feature_sizes().values())
    logits = [random.standard_normal((9 * CONFIG.num_classes, *size), np.float32) + np.float32(mean) for size in sizes]
    if ties:
        logits = [np.round(2 * level) / 2 for level in logits]  # many equal values, 0.0 and -0.0 among them
    return logits, [random.standard_normal((36, *size), np.float32) * np.float32(0.3) for size in sizes]


def by_torch(logits: list[np.ndarray], deltas: list[np.ndarray], profile: Profile) -> Detections:
    heads = ([torch.from_numpy(level)[None] for level in head] for head in (logits, deltas))
    found = in_torch.postprocess(*heads, torch.tensor(ANCHORS), torch.tensor([1.5]), CONFIG.image_size, profile)
    count = int(found.num_detections)
    return Detections(*(column[0, :count].numpy() for column in found[:3]))


def detect(logits: list[np.ndarray], deltas: list[np.ndarray], profile: Profile) -> Detections:
    return postprocess(logits, deltas, ANCHORS, 1.5, CONFIG.image_size, profile)


def differ(found: Detections, expected: Detections) -> bool:
    """Whether classes or order differ, or numbers by more than exponentials of two libraries."""
    return not np.array_equal(found.classes, expected.classes) or any(
        np.abs(first - second).max(initial=0) > error
        for first, second, error in zip(found[:2], expected[:2], (1e-3, 1e-6), strict=True)
    )


def channels_last(level: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(level.transpose(1, 2, 0)).transpose(2, 0, 1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("first", [numpy_postprocess.FIRST_CANDIDATES, 8], ids=["at once", "in rounds"])
def test_equals_torch(case: str, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_postprocess, "FIRST_CANDIDATES", first)
    monkeypatch.setattr(numpy_postprocess, "ROOM", 8 if first > 8 else 0)
    for seed, mean in ((0, 0.0), (1, -5.0)):
        logits, deltas = outputs(seed, mean=mean)
        expected = by_torch(logits, deltas, CASES[case])
        for layout in (np.asarray, channels_last):
            found = detect(*([layout(level) for level in head] for head in (logits, deltas)), CASES[case])
            assert not differ(found, expected)
            assert [column.dtype for column in found] == [np.float32, np.float32, np.int64]


@pytest.mark.parametrize("case", ["official-eval-hard", "serving-hard", "few candidates"])
@pytest.mark.parametrize("first", [1536, 8])
def test_equals_torch_where_scores_are_equal(case: str, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_postprocess, "FIRST_CANDIDATES", first)
    monkeypatch.setattr(numpy_postprocess, "ROOM", 0)
    logits, deltas = outputs(ties=True)
    assert not differ(detect(logits, deltas, CASES[case]), by_torch(logits, deltas, CASES[case]))
    constant = [np.zeros_like(level) for level in logits]
    assert not differ(detect(constant, deltas, CASES[case]), by_torch(constant, deltas, CASES[case]))


@pytest.mark.parametrize("case", ["official-eval", "official-eval-hard", "serving", "serving-hard"])
def test_the_first_candidates_are_not_always_enough(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the rounds: without the later ones, detections are missing or wrong."""
    monkeypatch.setattr(numpy_postprocess, "_rounds", lambda *_: iter([60]))
    logits, deltas = outputs()
    assert differ(detect(logits, deltas, CASES[case]), by_torch(logits, deltas, CASES[case]))


def test_candidates_below_the_threshold_never_reach_nms(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, suppress = list[int](), numpy_postprocess.non_max_suppression

    def counted(boxes: np.ndarray, *rest: Any) -> tuple[np.ndarray, np.ndarray]:
        sizes.append(len(boxes))
        return suppress(boxes, *rest)

    monkeypatch.setattr(numpy_postprocess, "non_max_suppression", counted)
    for case in ("serving", "official-eval"):
        logits, deltas = outputs(mean=-9.5)
        flat = np.concatenate([level.ravel() for level in logits])
        above = int((flat.astype(float) > math.log(0.001 / 0.999) - numpy_postprocess.LOGIT_MARGIN).sum())
        assert 5 < len(detect(logits, deltas, CASES[case]).scores) <= sizes[-1] <= above < 100
    assert len(sizes) == 2  # in one round each


@pytest.mark.parametrize("choose", [top_k, best_class])
@pytest.mark.parametrize("count", [1, 30, 700])
def test_what_is_left_out_is_not_above_the_floor(choose: Callable[..., Any], count: int) -> None:
    logits, _ = outputs(ties=True)
    highest = maxima(logits, 6)
    everything = gather(logits, np.arange(len(ANCHORS)), 6)
    np.testing.assert_array_equal(highest, everything.max(axis=1))
    chosen = choose(logits, highest, 6, count, -math.inf)
    pairs = chosen.anchors[chosen.rows], chosen.classes
    np.testing.assert_array_equal(everything[pairs], chosen.logits)
    left = everything.copy() if choose is top_k else highest.copy()
    left[pairs if choose is top_k else pairs[0]] = -math.inf
    assert left.max() <= chosen.floor
    assert left.max() > -math.inf


@pytest.mark.parametrize("case", ["official-eval", "serving", "few"])
def test_nothing_is_found_in_outputs_that_are_not_finite(case: str) -> None:
    profile = CASES[case]
    logits, deltas = outputs()
    assert len(detect(logits, deltas, profile).scores) == profile.max_detections  # negative control
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(NonFiniteOutputError):
            detect([np.full_like(level, value) for level in logits], deltas, profile)
        with pytest.raises(NonFiniteOutputError):
            detect(logits, [np.full_like(level, value) for level in deltas], profile)
    best = detect(logits, deltas, profile).classes[0] - 1
    for place in (np.s_[best::6], np.s_[best::6, 1:]):  # of one class, everywhere or almost everywhere
        broken = [level.copy() for level in logits]
        for level in broken[:2]:
            level[place] = math.nan
        with pytest.raises(NonFiniteOutputError):
            detect(broken, deltas, profile)
    huge = [np.full_like(level, 1000) for level in deltas]
    assert np.isfinite(detect(logits, huge, CASES["official-eval-hard"]).scores).all()


@pytest.mark.parametrize("case", ["official-eval", "serving"])
def test_logits_of_minus_infinity_are_scores_of_0(case: str) -> None:
    logits, deltas = outputs()
    low = [level.copy() for level in logits]
    for level, other in zip(logits, low, strict=True):
        level[2::6], other[2::6] = -math.inf, -1000.0
    assert not differ(detect(logits, deltas, CASES[case]), detect(low, deltas, CASES[case]))
    assert not differ(by_torch(logits, deltas, CASES[case]), by_torch(low, deltas, CASES[case]))


def test_anchors_of_another_size() -> None:
    anchors = anchors_yxyx(get_config("d0", image_size=128))
    with pytest.raises(ConfigError, match="make the anchors for the image size"):
        postprocess(*outputs(), anchors, 1.0, CONFIG.image_size)
