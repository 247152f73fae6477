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
from effdet_torch.export.nms_replay import IMPOSSIBLE, Choice, Limits, replayed
from effdet_torch.geometry.anchors import anchors_yxyx
from effdet_torch.network.model import EfficientDet
from effdet_torch.processing.numpy_postprocess import postprocess
from effdet_torch.processing.profiles import PROFILES, Profile
from support.exports import export_sample

Numbers = np.ndarray
Change = Callable[[list[Numbers]], None]
HARD = ("official-eval-hard", "serving-hard", "tflite")
LIMITS = Limits(2e-3, 1e-3, 192)


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


def test_shifted_anchors_are_found(model: EfficientDet) -> None:
    with pytest.raises(EffdetError, match="the exported file is wrong"):
        check_file(OtherRounding(model, PROFILES["tflite"], anchors=2.0), model)


def replay(scores: list[float], order: list[int], gap: float = 1.0) -> Choice:
    """Detections of boxes in a row, each apart from the others; `gap` below 1 makes neighbours overlap."""
    left = np.arange(len(scores), dtype=np.float32) * 10 * gap
    boxes = np.stack([left, left * 0, left + 10, left * 0 + 10], axis=1)
    chosen = [boxes[order], np.float32(scores)[order], np.ones(len(order), np.int64)]
    return replayed(chosen, boxes, boxes, np.float32(scores)[:, None], Profile(max_detections=2), LIMITS)


def test_two_boxes_of_one_score_may_be_chosen_either_way() -> None:
    equal = [0.5, 0.5 + 6e-8, 0.5]
    for order in ([0, 1], [1, 2], [2, 0]):
        assert (found := replay(equal, order)).margin <= found.limit
    assert (found := replay([0.5, 0.6, 0.5], [0, 2])).margin > found.limit  # negative controls
    assert replay([0.5, 0.6], [1]).margin == np.inf  # there was room for another one
    assert replay(equal, [0, 1], gap=0.2) == IMPOSSIBLE  # the first suppresses the second
