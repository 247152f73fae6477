"""Losses and their gradients against the official trainer's in float64: six batches in twelve variants."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from effdet_torch.train.objective import DetectionLoss, Losses, TargetAssigner, Targets
from effdet_torch.train.objective.focal import Focal, focal_sum
from effdet_torch.train.recipe import Recipe
from support.training import CONFIGS, LabelledBoxes, load_arrays, load_json

CONFIG = CONFIGS["d0_256"]
SIZES = tuple(CONFIG.feature_sizes().values())
HEADS = {"class": (1000, -4.0, 1.5, 810), "box": (2000, 0.0, 0.3, 36)}
# The deltas of a batch's targets are the official ones: their logarithm differs from PyTorch's in the last place.
CASES = {
    "images_296649_37777": ("image_296649", "image_37777"),
    "image_37777": ("image_37777",),
    "image_296649": ("image_296649",),
    "image_37777_first_three_classes_minus_one": ("image_37777",),
    "two_images_no_boxes": (),
    "exact_anchor_box": ("exactly_one_anchor",),
}
VARIANTS = 12
VALUE_ERROR, GRADIENT_ERROR = 1e-12, 1e-10
FLOAT32_ERROR = 1e-6  # of a sum over a level; the official float32 losses are that far from float64
LOG_ERROR = 1e-8  # what the last place of the targets' logarithms changes


class Oracle(NamedTuple):
    losses: dict[str, Any]
    gradients: dict[str, Any]
    targets: dict[str, Any]


@pytest.fixture(scope="module")
def oracle(shared: Path) -> Oracle:
    names = load_json(shared, "losses_seeded.json"), load_arrays(shared, "losses_seeded.npz")
    return Oracle(*names, load_arrays(shared, "anchor_targets.npz"))


def own_targets(oracle: Oracle, batch: str) -> Targets:
    boxes, labels = LabelledBoxes.of(oracle.gradients, batch)
    counts = oracle.gradients[f"{batch}|boxes_per_image"].tolist()
    return TargetAssigner(CONFIG)(boxes.split(counts), labels.split(counts))


def official_targets(oracle: Oracle, batch: str) -> Targets:
    targets = own_targets(oracle, batch)
    assert targets.positives.tolist() == oracle.losses[batch]["num_positives"]
    deltas = [oracle.targets[f"d0_256|{case}|box_target"] for case in CASES[batch]]
    return targets._replace(boxes=torch.from_numpy(np.concatenate(deltas))) if deltas else targets


def seeded_outputs(images: int, dtype: torch.dtype) -> dict[str, list[Tensor]]:
    """The outputs that the oracle's were computed of; leaves of the graph, NHWC in memory as NCHW."""
    return {
        head: [
            torch.from_numpy(np.random.RandomState(seed + level).normal(mean, deviation, (images, *size, channels)))
            .float()
            .to(dtype)
            .permute(0, 3, 1, 2)
            .requires_grad_()
            for level, size in enumerate(SIZES, 3)
        ]
        for head, (seed, mean, deviation, channels) in HEADS.items()
    }


def recipe_of(options: dict[str, Any], **changes: Any) -> Recipe:
    names = {"iou_loss_type": "iou_loss"}
    return Recipe(**{**{names.get(name, name): value for name, value in options.items()}, **changes})


def value_error(losses: Losses, expected: dict[str, float]) -> float:
    """Return the largest relative error of the losses."""
    names = {"det_loss": losses.total, "cls_loss": losses.classes, "box_loss": losses.boxes, "box_iou_loss": losses.iou}
    pairs = [(names[name].item(), value) for name, value in expected.items()]
    return max(abs(found - value) / (abs(value) or 1.0) for found, value in pairs)


def gradient_error(oracle: Oracle, prefix: str, outputs: dict[str, list[Tensor]], box: str = "grad_box") -> float:
    """Return the largest error of sampled gradients and norms, over the norm of the tensor; 0 where none are stored."""
    errors = [0.0]
    for head, key in (("class", "grad_class"), ("box", box)):
        for level, output in enumerate(outputs[head], 3):
            if f"{prefix}|{key}_{level}|value" not in oracle.gradients:
                continue
            assert output.grad is not None
            gradient = output.grad.permute(0, 2, 3, 1).reshape(-1).numpy()
            index = oracle.gradients[f"{prefix}|grad_{head}_{level}|index"]
            value, norm = (oracle.gradients[f"{prefix}|{key}_{level}|{name}"] for name in ("value", "norm"))
            difference = np.abs(gradient[index] - value).max(initial=0), abs(np.linalg.norm(gradient) - norm)
            errors.append(float(max(difference) / (norm or 1.0)))
    return max(errors)


def run(targets: Targets, recipe: Recipe, dtype: torch.dtype = torch.float64) -> tuple[Losses, dict[str, list[Tensor]]]:
    outputs = seeded_outputs(len(targets.positives), dtype)
    losses = DetectionLoss(recipe, CONFIG)(*outputs.values(), targets)
    losses.total.backward()
    return losses, outputs


@pytest.mark.parametrize("batch", CASES)
def test_losses_and_gradients_are_the_official_ones(oracle: Oracle, batch: str) -> None:
    targets = official_targets(oracle, batch)
    variants = {name: row for name, row in oracle.losses[batch].items() if isinstance(row, dict)}
    assert len(variants) == VARIANTS
    for name, row in variants.items():
        losses, outputs = run(targets, recipe_of(row["options"], ciou_gradient="true"))
        assert value_error(losses, row["f64"]) < VALUE_ERROR, name
        assert gradient_error(oracle, f"{batch}|{name}", outputs) < GRADIENT_ERROR, name


def test_ciou_is_differentiated_both_ways(oracle: Oracle) -> None:
    batch, row = "image_37777", oracle.losses["image_37777"]["iou_ciou"]
    errors = {}
    for gradient in ("graph", "true"):
        losses, outputs = run(official_targets(oracle, batch), recipe_of(row["options"], ciou_gradient=gradient))
        assert value_error(losses, row["f64"]) < VALUE_ERROR
        errors[gradient] = [
            gradient_error(oracle, f"{batch}|iou_ciou", outputs, key) for key in ("graph_grad_box", "grad_box")
        ]
    assert max(errors["graph"][0], errors["true"][1]) < GRADIENT_ERROR
    assert min(errors["graph"][1], errors["true"][0]) > 1e-6  # control: each is far from the other


@pytest.mark.parametrize("change", [{"gamma": 2.0}, {"delta": 0.1 * (1 + 1e-7)}, {"alpha": 0.2501}])
def test_other_settings_give_other_losses(oracle: Oracle, change: dict[str, float]) -> None:
    row = oracle.losses["image_37777"]["default"]
    losses, outputs = run(official_targets(oracle, "image_37777"), Recipe(**change))
    assert value_error(losses, row["f64"]) > VALUE_ERROR * 100
    assert gradient_error(oracle, "image_37777|default", outputs) > GRADIENT_ERROR * 10


def test_own_targets_change_no_more_than_the_last_place_of_a_logarithm(oracle: Oracle) -> None:
    row = oracle.losses["images_296649_37777"]["iou_ciou"]
    losses, _ = run(own_targets(oracle, "images_296649_37777"), recipe_of(row["options"]))
    assert value_error(losses, row["f64"]) < LOG_ERROR


def test_float32_losses_are_the_official_ones_level_by_level(oracle: Oracle) -> None:
    batch = "images_296649_37777"
    row, targets = oracle.losses[batch]["default"], official_targets(oracle, batch)
    losses, outputs = run(targets, Recipe(), torch.float32)
    assert losses.total.dtype == torch.float32
    assert losses.total.item() == pytest.approx(row["f32_main_py"]["total"], rel=FLOAT32_ERROR)
    device, focal = torch.device("cpu"), Focal.of(Recipe())
    for level, logits, expected in zip(
        DetectionLoss(Recipe(), CONFIG).levels, outputs["class"], row["f32_per_level_class_box"], strict=True
    ):
        part = level.part(targets)
        found = focal_sum(logits, part.objects(device), part.ignored(device), focal).item()
        assert found / oracle.losses[batch]["normalizer"] == pytest.approx(expected[0], rel=FLOAT32_ERROR)
