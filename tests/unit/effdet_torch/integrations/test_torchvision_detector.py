"""The contract of torchvision's detection models, beside torchvision's own and beside `Predictor`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models import resnet18
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from effdet_torch import Predictor, as_torchvision
from effdet_torch.errors import ConfigError, UsageError
from effdet_torch.network.model import EfficientDet
from support.coco_samples import small_model


def calm_model() -> EfficientDet:
    """An untrained network whose boxes are near their anchors and whose scores are not all 1."""
    model = small_model()
    with torch.no_grad():
        for head in (model.class_net, model.box_net):
            head.predict.conv_pw.weight *= 0.002
            head.predict.conv_pw.bias -= 0.5
    return model


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.integers(0, 256, (3, *size), np.uint8)) for size in ((40, 64), (96, 50))]


@pytest.fixture(scope="module")
def targets() -> list[dict[str, torch.Tensor]]:
    boxes = torch.tensor([[4.0, 5.0, 30.0, 33.0]])
    return [
        {"boxes": boxes, "labels": torch.tensor([2])},
        {"boxes": torch.zeros((0, 4)), "labels": torch.zeros(0, dtype=torch.int64)},
    ]


def test_detections_are_those_of_the_predictor(images: list[torch.Tensor]) -> None:
    model = calm_model()
    detector = as_torchvision(model, score_threshold=0.0)
    found = [detector([image])[0] for image in images]  # one by one, as the predictor runs them on a CPU
    expected = Predictor(model, score_threshold=0.0, fused=False)([image.numpy() for image in images])
    for ours, theirs, image in zip(found, expected, images, strict=True):
        height, width = image.shape[1:]
        clipped = np.clip(theirs.boxes_xyxy, 0, [width, height, width, height])
        np.testing.assert_allclose(ours["boxes"].numpy(), clipped, atol=1e-3)
        np.testing.assert_allclose(ours["scores"].numpy(), theirs.scores, atol=1e-6)
        assert ours["labels"].tolist() == theirs.category_ids.tolist()
        assert len(theirs.scores)


def test_floats_in_0_to_1_are_the_same_images(images: list[torch.Tensor]) -> None:
    detector = as_torchvision(calm_model(), score_threshold=0.0)
    for one, other in zip(detector(images), detector([image / 255 for image in images]), strict=True):
        torch.testing.assert_close(one["boxes"], other["boxes"], atol=1e-3, rtol=0)
    darker = detector([image // 2 for image in images])  # negative control
    assert not torch.allclose(darker[0]["scores"], detector(images)[0]["scores"], atol=1e-4)


def test_keys_types_and_shapes_are_torchvisions(
    images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]]
) -> None:
    body = BackboneWithFPN(resnet18(weights=None), {"layer4": "0"}, [512], 8)
    theirs = RetinaNet(body, num_classes=3, min_size=64, max_size=64).eval()
    theirs.anchor_generator.sizes = ((32,), (64,))
    ours = as_torchvision(calm_model())
    floats = [image / 255 for image in images]
    threshold = as_torchvision(calm_model(), score_threshold=1.0)(floats)
    assert [len(found["boxes"]) for found in threshold] == [0, 0]
    for found in (*ours(floats), *threshold):
        assert set(found) == {"boxes", "labels", "scores"}
        assert (found["boxes"].shape[1], found["labels"].dtype) == (4, torch.int64)
        assert len(found["boxes"]) == len(found["labels"]) == len(found["scores"])
    losses = ours.train()(floats, targets)
    assert isinstance(losses, dict)
    assert set(losses) == {"classification", "bbox_regression"}


def test_losses_train_the_model(images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]]) -> None:
    torch.manual_seed(0)
    detector = as_torchvision(calm_model()).train()
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.01)
    totals = []
    for _ in range(8):
        losses = detector(images, targets)
        assert isinstance(losses, dict)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]
    assert not list(detector.buffers())[-1].requires_grad


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (torch.zeros(1, 8, 8), r"images\[0\] has the shape \(1, 8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), r"images\[0\] is torch.int64"),
        (torch.full((3, 8, 8), 200.0), r"values from 200 to 200; expected 0..1"),
        (torch.full((3, 8, 8), -1.0), r"values from -1 to -1; expected 0..1"),
    ],
)
def test_what_is_not_an_image(image: torch.Tensor, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        as_torchvision(calm_model())([image])


def test_targets_that_do_not_fit(images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]]) -> None:
    detector = as_torchvision(calm_model()).train()
    with pytest.raises(UsageError, match="2 images and targets: none"):
        detector(images)
    with pytest.raises(UsageError, match="2 images and targets: 1"):
        detector(images, targets[:1])
    wrong = [{"boxes": targets[0]["boxes"], "labels": torch.tensor([0])}, targets[1]]  # background, torchvision's 0
    with pytest.raises(UsageError, match=r"targets\[0\] has labels 0 to 0; expected 1 to"):
        detector(images, wrong)


def test_wrong_arguments() -> None:
    with pytest.raises(UsageError, match="model"):
        as_torchvision(torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="fast"):
        as_torchvision(calm_model(), profile="fast")
