"""The contract of Detectron2's models, with a stand-in for its structures: the real package is on no package index."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from effdet_torch import Predictor
from effdet_torch.errors import ConfigError, UsageError
from effdet_torch.integrations.detectron2_detector import Detectron2Detector, as_detectron2
from effdet_torch.integrations.torchvision_detector import as_torchvision
from effdet_torch.network.model import EfficientDet
from support import detectron2_stand_in
from support.coco_samples import small_model
from support.detectron2_stand_in import Boxes, Instances

NAMES = ("cat", "dog", "bird")
CLASSES = ("bird", "cat")  # in another order than the model's, and one fewer
PROFILE = "official-eval-hard"  # takes every class of an anchor


@pytest.fixture(autouse=True)
def guest(monkeypatch: pytest.MonkeyPatch) -> None:
    detectron2_stand_in.install(monkeypatch)


@pytest.fixture
def model() -> EfficientDet:
    model = small_model(num_classes=3, label_map=dict(enumerate(NAMES, 1)))
    with torch.no_grad():
        model.box_net.predict.conv_pw.weight *= 0.002
        model.class_net.predict.conv_pw.weight *= 0.004
        model.class_net.predict.conv_pw.bias.copy_(torch.tensor([0.0, 1.0, -1.0]).repeat(9))  # classes differ
    return model


@pytest.fixture
def rgb() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 48, 64), np.uint8))


def detector(model: EfficientDet, **settings: Any) -> Detectron2Detector:
    return as_detectron2(model, **{"classes": CLASSES, "profile": PROFILE, "score_threshold": 0.0, **settings})


def test_instances_are_our_detections_in_pixels_of_the_output(model: EfficientDet, rgb: torch.Tensor) -> None:
    bgr = rgb.flip(0)
    (one, two) = detector(model)([{"image": bgr}, {"image": bgr.float(), "height": 24, "width": 128}])
    expected, _ = as_torchvision(model, profile=PROFILE, score_threshold=0.0)([rgb, rgb])
    names = Predictor(model, profile=PROFILE).names_of(expected["labels"].tolist())
    kept = torch.tensor([name in CLASSES for name in names])
    found = one["instances"]
    assert set(found.get_fields()) == {"pred_boxes", "scores", "pred_classes"}
    assert found.image_size == (48, 64)
    assert [CLASSES[label] for label in found.pred_classes] == [name for name in names if name in CLASSES]
    assert found.pred_classes.dtype == torch.int64
    assert torch.equal(found.scores, expected["scores"][kept])
    assert torch.equal(found.pred_boxes.tensor, expected["boxes"][kept])
    assert found.pred_boxes.nonempty().all()
    assert two["instances"].image_size == (24, 128)
    scaled = found.pred_boxes.tensor[:9] * torch.tensor([2, 0.5, 2, 0.5])
    torch.testing.assert_close(two["instances"].pred_boxes.tensor[:9], scaled, atol=1e-2, rtol=0)
    wrong, _ = detector(model)([{"image": rgb}, {"image": rgb}])  # negative control: red and blue exchanged
    assert abs(wrong["instances"].scores.sum() - found.scores.sum()) > 0.01
    same, _ = detector(model, image_format="RGB")([{"image": rgb}, {"image": rgb}])
    assert torch.equal(same["instances"].scores, found.scores)


def target(*classes: int, box: tuple[float, ...] = (4, 5, 30, 33)) -> Instances:
    boxes = Boxes(torch.tensor([box] * len(classes)).reshape(-1, 4))
    return Instances((48, 64), gt_boxes=boxes, gt_classes=torch.tensor(classes, dtype=torch.int64))


def test_losses_are_those_of_the_model(model: EfficientDet, rgb: torch.Tensor) -> None:
    batch = [{"image": rgb.flip(0), "instances": target(0)}, {"image": rgb.flip(0), "instances": target()}]
    trained = detector(model).train()
    losses = trained(batch)
    assert isinstance(losses, dict)
    boxes = torch.tensor([[4.0, 5.0, 30.0, 33.0]])
    theirs = [{"boxes": boxes, "labels": torch.tensor([3])}, {"boxes": boxes[:0], "labels": torch.tensor([]).long()}]
    expected = as_torchvision(model)([rgb, rgb], theirs)
    assert isinstance(expected, dict)
    torch.testing.assert_close(losses["loss_cls"], expected["classification"])
    torch.testing.assert_close(losses["loss_box_reg"], expected["bbox_regression"])
    batch[0]["instances"] = target(1)  # negative control: another label
    assert not torch.isclose(trained(batch)["loss_cls"], losses["loss_cls"])
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.01)
    totals = []
    for _ in range(5):
        total = torch.stack(list(trained(batch).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]


def fractions() -> Instances:
    return Instances((48, 64), gt_boxes=Boxes(torch.tensor([[1.0, 2, 3, 4]])), gt_classes=torch.zeros(1))


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        ({}, "the input 0 has no instances"),
        ({"instances": target(2)}, "gt_classes of the input 0 has values 2 to 2; expected 0 to 1"),
        ({"instances": target(0, box=(4, 5, 4, 33))}, r"targets\[0\] has the box .* with an area"),
        ({"image": torch.zeros(48, 64, 3), "instances": target(0)}, r"shape \(48, 64, 3\); expected \(3, H, W\)"),
        ({"image": np.zeros((3, 48, 64), np.uint8)}, "the image 0 is of type ndarray; expected a tensor"),
        ({"instances": Instances((48, 64), gt_boxes=Boxes(torch.zeros(0, 4)))}, "gt_classes of the input 0 is of type"),
        ({"instances": fractions()}, "gt_classes of the input 0 holds torch.float32; expected integers"),
        ({"image": torch.full((3, 4, 4), -9.0), "instances": target(0)}, "not normalised"),
    ],
)
def test_wrong_inputs(model: EfficientDet, rgb: torch.Tensor, one: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        detector(model).train()([{"image": rgb, **one}])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([{}], "the input 0 has no image"),
        ([torch.zeros(3, 8, 8)], "the input 0 is of type Tensor; expected a dictionary"),
        (torch.zeros(1, 3, 8, 8), "batched_inputs is of type Tensor; expected a list"),
    ],
)
def test_what_is_not_a_batch(model: EfficientDet, given: Any, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        detector(model)(given)


WRONG_CLASSES: dict[str, tuple[Any, str]] = {
    "none": ((), "classes is empty"),
    "twice": (("cat", "cat"), "classes has 'cat' twice"),
    "a text": ("cat", r"classes is the text 'cat'; expected several names, such as \['cat'\]"),
    "a set": ({"cat"}, "classes is of type set; expected a sequence of names"),
    "numbers": ((1, 2), "the class 1 is of type int; expected a name"),
}


@pytest.mark.parametrize("kind", WRONG_CLASSES)
def test_names_of_labels_that_are_refused(model: EfficientDet, kind: str) -> None:
    classes, expected = WRONG_CLASSES[kind]
    with pytest.raises(UsageError, match=expected):
        as_detectron2(model, classes=classes)


def test_a_name_of_two_categories_is_refused() -> None:
    """One label stands for one category; the objects of the other one would be lost."""
    model = small_model(num_classes=3, label_map={1: "chair", 2: "chair", 3: "orange"})
    with pytest.raises(UsageError, match=r"d0 has the class 'chair' twice, as categories 1 and 2.*label_map"):
        as_detectron2(model, classes=("chair", "orange"))
    assert as_detectron2(model, classes=("orange",)).categories.tolist() == [3]  # nothing is lost


def test_wrong_arguments(model: EfficientDet) -> None:
    with pytest.raises(ConfigError, match="image_format is 'L'; expected one of BGR, RGB"):
        as_detectron2(model, image_format="L")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="d0 has no class 'horse'; it has cat, dog, bird"):
        as_detectron2(model, classes=("horse",))
    assert as_detectron2(model).categories.tolist() == [1, 2, 3]
    assert as_detectron2(model).device == torch.device("cpu")
