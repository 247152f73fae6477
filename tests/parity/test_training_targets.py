"""Targets against the official trainer's: 34 cases in four configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effdet_torch.geometry.boxes import yxyx_to_xyxy
from effdet_torch.train.objective import TargetAssigner, Targets
from support.training import CONFIGS, LabelledBoxes, dense_match, load_arrays, other_config

BOX_ERROR = 1e-6  # a rounding of the logarithm
CASES = 34


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    return load_arrays(shared, "anchor_targets.npz")


def case_names(golden: dict[str, Any]) -> list[str]:
    names = sorted({key.split("|")[1] for key in golden if key.count("|") == 2})
    assert len(names) == CASES
    return names


def differs(golden: dict[str, Any], prefix: str, targets: Targets) -> bool:
    """Whether anchors, classes, numbers of positives or deltas are not the official ones."""
    anchor, classes, boxes, positives = (
        golden[f"{prefix}|{name}"] for name in ("anchor_index", "class_target", "box_target", "num_positives")
    )
    is_equal = (
        np.array_equal(targets.anchor.numpy(), anchor)
        and np.array_equal(targets.classes.numpy(), classes)
        and targets.positives.tolist() == [positives]
        and np.array_equal(targets.boxes.numpy() == 0, boxes == 0)  # decides which coordinates are trained
        and np.abs(targets.boxes.numpy() - boxes).max(initial=0) <= BOX_ERROR
    )
    return not is_equal


@pytest.mark.parametrize("config", CONFIGS)
def test_targets_are_the_official_ones(golden: dict[str, Any], config: str) -> None:
    assigner = TargetAssigner(CONFIGS[config])
    other_ratios = TargetAssigner(other_config(CONFIGS[config], aspect_ratios=((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))))
    changed = 0
    for case in case_names(golden):
        boxes, labels = LabelledBoxes.of(golden, f"{config}|{case}")
        assert not differs(golden, f"{config}|{case}", assigner([boxes], [labels])), case
        changed += differs(golden, f"{config}|{case}", other_ratios([boxes], [labels]))
    assert changed >= 12  # control: aspect ratios that are rounded


@pytest.mark.parametrize("config", CONFIGS)
def test_of_two_boxes_with_one_best_anchor_the_lower_row_wins(golden: dict[str, Any], config: str) -> None:
    prefix = f"{config}|two_boxes_one_best_anchor"
    boxes = yxyx_to_xyxy(LabelledBoxes.of(golden, prefix).boxes_xyxy).numpy()
    anchors = TargetAssigner(CONFIGS[config])._anchors.numpy()
    official = golden[f"{prefix}|matched_row"]
    assert np.array_equal(dense_match(boxes, anchors)[1], official)
    assert not np.array_equal(dense_match(boxes, anchors, higher_row_wins=True)[1], official)  # control
