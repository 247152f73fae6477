"""Detections that differ because two scores are equal up to rounding are explained; a real fault is not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effdet_torch.engines.document import Interface, make_document, plain_profile
from effdet_torch.engines.file_engine import FileEngine
from effdet_torch.errors import EffdetError
from effdet_torch.export.check import check_file
from effdet_torch.export.comparison.nms_replay import IMPOSSIBLE, Choice, Limits, replayed
from effdet_torch.geometry.anchors import anchors_yxyx
from effdet_torch.network.model import EfficientDet
from effdet_torch.processing.numpy_postprocess import postprocess
from effdet_torch.processing.profiles import PROFILES, Profile
from support.exports import export_sample
from support.sources import small_config

Numbers = np.ndarray
Change = Callable[[list[Numbers]], None]
HARD = ("official-eval-hard", "serving-hard", "tflite")


@pytest.fixture(scope="module")
def model() -> EfficientDet:
    """A network whose scores are nearly equal, as those of an untrained one are."""
    model = export_sample()
    model.state_dict()["class_net.predict.conv_pw.weight"].mul_(1e-5)
    return model


class OtherRounding(FileEngine):
    """Stands for an exported file: the model's own outputs with noise, and an NMS of their own."""

    runtime = "another runtime"

    def __init__(self, model: EfficientDet, profile: Profile, noise: float = 1e-6, anchors: float = 0.0) -> None:
        options = {"outputs": "detections", "image_size": model.config.image_size}
        stated = Interface(**options, profile=plain_profile(profile))  # type: ignore[arg-type]
        super().__init__(Path("d0.tflite"), make_document(model.config, stated, {}, {}))
        self.model, self.used, self.noise, self.shift = model, profile, noise, anchors
        self.change: Change = lambda _: None

    def _run(self, pixels: Numbers) -> list[Numbers]:
        random = np.random.default_rng(0)
        with torch.inference_mode():
            heads = [[level[0].numpy().copy() for level in head] for head in self.model(torch.from_numpy(pixels))]
        for level in heads[0]:
            level += random.standard_normal(level.shape, np.float32) * np.float32(self.noise)
        anchors = anchors_yxyx(self.config) + np.float32(self.shift)
        found = postprocess(*heads, anchors, 1.0, self.config.image_size, self.used)
        count, most = len(found.scores), self.used.max_detections
        padded = [
            np.concatenate([column, np.zeros((most - count, *column.shape[1:]), column.dtype)]) for column in found
        ]
        self.change(padded)
        return [*(column[None] for column in padded), np.array([count])]


@pytest.mark.parametrize("name", [*HARD, "serving", "official-eval"])
def test_what_rounding_decides_is_explained_and_said(model: EfficientDet, name: str) -> None:
    checked = check_file(OtherRounding(model, PROFILES[name]), model)
    assert checked.otherwise > 0
    assert re.search(r"; \d+ of 100 detections chosen otherwise, where scores are equal to [1-9]e-07, or", str(checked))
    if PROFILES[name].sigma == 0:  # exponentials of PyTorch and NumPy differ
        same = check_file(OtherRounding(model, PROFILES[name], noise=0.0), model)
        assert (same.otherwise, "otherwise" in str(same)) == (0, False)  # negative control


def other_class(columns: list[Numbers]) -> None:
    columns[2][3] = columns[2][3] % 3 + 1


def one_left_out(columns: list[Numbers]) -> None:
    for column in columns:
        column[2:-1] = column[3:].copy()


def one_twice(columns: list[Numbers]) -> None:
    for column in columns:
        column[3] = column[2]


@pytest.mark.parametrize("name", ["official-eval-hard", "tflite", "official-eval"])  # clipped, many boxes are equal
@pytest.mark.parametrize("change", [other_class, one_left_out, one_twice])
def test_a_wrong_detection_is_found(model: EfficientDet, name: str, change: Change) -> None:
    engine = OtherRounding(model, PROFILES[name])
    engine.change = change
    with pytest.raises(EffdetError, match="the exported file is wrong"):
        check_file(engine, model)


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("threshold", [0.3, 0.45, 0.55, 0.7])
def test_another_threshold_is_found(model: EfficientDet, name: str, threshold: float) -> None:
    engine = OtherRounding(model, PROFILES[name])
    engine.used = replace(engine.used, iou_threshold=threshold)
    with pytest.raises(EffdetError, match="the exported file is wrong"):
        check_file(engine, model)


@pytest.mark.parametrize(
    "changed", [{"sigma": 0.4}, {"sigma": 0.6}, {"per_class": False}, {"score_threshold": 0.55}], ids=str
)
def test_another_setting_of_soft_nms_is_found(changed: dict[str, Any]) -> None:
    model = export_sample()
    model.state_dict()["class_net.predict.conv_pw.weight"].mul_(0.01)
    engine = OtherRounding(model, replace(PROFILES["official-eval"], max_detections=300))
    assert check_file(engine, model).otherwise  # negative control
    engine.used = replace(engine.used, **changed)
    with pytest.raises(EffdetError, match="the exported file is wrong"):
        check_file(engine, model)


@pytest.fixture(scope="module")
def untrained() -> EfficientDet:
    """A network of square images whose scores and boxes are those of the initial values: all the same, and anchors."""
    model = EfficientDet(small_config(image_size=(128, 128), max_level=7, num_classes=3)).eval()
    for name in ("class_net.predict.conv_pw.weight", "box_net.predict.conv_pw.weight"):
        model.state_dict()[name].zero_()
    return model


@pytest.mark.parametrize("name", [*HARD, "serving", "official-eval"])
def test_an_untrained_network_has_no_best_candidates(untrained: EfficientDet, name: str) -> None:
    """Its file may choose any of the pairs that score the same, and the line says that little was seen."""
    engine = OtherRounding(untrained, PROFILES[name], noise=1e-6)
    assert re.search(
        r"; the scores of this model are equal to 1e-07: classes, and which boxes are chosen, were not told apart$",
        str(check_file(engine, untrained)),
    )


def test_only_scores_that_are_alike_are_called_so() -> None:
    model = export_sample()
    model.state_dict()["class_net.predict.conv_pw.weight"].mul_(0.01)
    assert "told apart" not in str(check_file(OtherRounding(model, PROFILES["official-eval"]), model))


WRONG: dict[str, Callable[[list[Numbers]], list[Numbers]]] = {
    "scores too low": lambda found: [found[0], found[1] * np.float32(0.99), *found[2:]],
    "x and y swapped": lambda found: [found[0][..., [1, 0, 3, 2]], *found[1:]],
    "an image less": lambda found: [array[:1] for array in found],
    "an image more": lambda found: [np.concatenate([array, array[:1]]) for array in found],
    "more detections": lambda found: [*(np.repeat(array, 2, axis=1) for array in found[:3]), found[3] * 2],
    "fewer detections": lambda found: [*(array[:, :50] for array in found[:3]), found[3] // 2],
    "a count too high": lambda found: [*found[:3], found[3] + 1],
    "a count below 0": lambda found: [*found[:3], found[3] * 0 - 1],
}


@pytest.mark.parametrize("name", ["official-eval", "tflite"])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_in_a_file_of_an_untrained_network(untrained: EfficientDet, name: str, wrong: str) -> None:
    engine = OtherRounding(untrained, PROFILES[name], noise=0.0)
    pixels = np.random.default_rng(0).standard_normal((2, 3, 128, 128), np.float32)
    found = engine.run(pixels)
    check_file(engine, untrained, pixels)  # negative control
    engine.run = lambda _: WRONG[wrong](found)  # type: ignore[method-assign]
    with pytest.raises(EffdetError, match="the exported file is wrong"):
        check_file(engine, untrained, pixels)


@pytest.mark.filterwarnings("error")
def test_all_boxes_are_used_up(untrained: EfficientDet) -> None:
    """Fewer boxes than detections, and no score threshold."""
    profile = replace(PROFILES["serving-hard"], max_detections=1000, iou_threshold=0.2)
    checked = check_file(OtherRounding(untrained, profile, noise=0.0), untrained)
    assert 0 < (checked.detections or 0) < profile.max_detections


def test_shifted_anchors_are_found(model: EfficientDet) -> None:
    with pytest.raises(EffdetError, match="the exported file is wrong"):
        check_file(OtherRounding(model, PROFILES["tflite"], anchors=2.0), model)


def replay(scores: list[float], order: list[int], gap: float = 1.0, threshold: float = -np.inf) -> Choice:
    """Detections of boxes in a row, each apart from the others; `gap` below 1 makes neighbours overlap."""
    left = np.arange(len(scores), dtype=np.float32) * 10 * gap
    boxes = np.stack([left, left * 0, left + 10, left * 0 + 10], axis=1)
    chosen = [boxes[order], np.float32(scores)[order], np.ones(len(order), np.int64)]
    profile = Profile(max_detections=2, score_threshold=threshold)
    limits = Limits(2e-3, 1e-2, np.full(len(boxes), 0.2), 192)
    return replayed(chosen, boxes, boxes, np.float32(scores)[:, None], profile, limits)


def test_two_boxes_of_one_score_may_be_chosen_either_way() -> None:
    equal = [0.5, 0.5 + 6e-8, 0.5]
    for order in ([0, 1], [1, 2], [2, 0]):
        assert (found := replay(equal, order)).margin <= found.limit
    assert (found := replay([0.5, 0.6, 0.5], [0, 2])).margin > found.limit  # negative controls
    assert replay([0.5, 0.6], [1]).margin == np.inf  # there was room for another one
    assert replay(equal, [0, 1], gap=0.2) == IMPOSSIBLE  # the first suppresses the second


def test_what_scores_less_than_the_threshold_is_no_detection() -> None:
    assert (found := replay([0.5, 0.6], [1, 0], threshold=0.55)).margin > found.limit
    for order, threshold in (([1], 0.55), ([1, 0], 0.45)):  # negative controls
        assert (found := replay([0.5, 0.6], order, threshold=threshold)).margin <= found.limit


def clipped(order: list[int]) -> Choice:
    """Detections of three boxes that look the same where they are clipped, in this order, by soft NMS."""
    corners = np.float32([[0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 80]])
    shown = np.float32([[0, 0, 10, 10]] * 3)
    profile = Profile(sigma=0.5, score_threshold=0.001, max_detections=len(order))
    heights, current, scores = corners[:, 3], np.full(3, 0.5), []
    for chosen in order:
        scores.append(current[chosen])
        overlap = np.minimum(heights, heights[chosen]) / np.maximum(heights, heights[chosen])
        current = current * np.exp(-np.square(overlap) / profile.sigma)
    found = [shown[order], np.float32(scores), np.ones(len(order), np.int64)]
    limits = Limits(2e-3, 1e-2, np.full(3, 0.2), 192)
    return replayed(found, corners, shown, np.full((3, 1), 0.5, np.float32), profile, limits)


def test_boxes_that_look_alike_may_be_chosen_in_any_order() -> None:
    for order in ([0, 2, 1], [1, 2, 0], [2, 0, 1], [2, 1, 0]):
        assert (found := clipped(order)).margin <= found.limit
    assert clipped([0, 2, 1, 1]) == IMPOSSIBLE  # negative control: there are three
