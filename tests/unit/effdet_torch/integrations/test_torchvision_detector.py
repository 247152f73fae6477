"""The contract of torchvision's detection models, beside torchvision's own and beside `Predictor`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import resnet18
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from effdet_torch import Predictor, as_torchvision
from effdet_torch.errors import ConfigError, UsageError
from effdet_torch.network.model import EfficientDet
from effdet_torch.train.objective import DetectionLoss, TargetAssigner
from effdet_torch.train.recipe import make_recipe
from support.coco_samples import small_model


def calm_model(**overrides: Any) -> EfficientDet:
    """An untrained network whose boxes are near their anchors and whose scores are not all 1."""
    model = small_model(**overrides)
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


@pytest.mark.parametrize("resize", ["half_pixel", "legacy"])
def test_detections_are_those_of_the_predictor(images: list[torch.Tensor], resize: str) -> None:
    model = calm_model(resize=resize)
    detector = as_torchvision(model, score_threshold=0.0)
    found = [detector([image])[0] for image in images]  # one by one, as the predictor runs them on a CPU
    expected = Predictor(model, score_threshold=0.0, fused=False)([image.numpy() for image in images])
    for ours, theirs, image in zip(found, expected, images, strict=True):
        height, width = image.shape[1:]
        clipped = np.clip(theirs.boxes_xyxy, 0, [width, height, width, height])
        kept = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        np.testing.assert_allclose(ours["boxes"].numpy(), clipped[kept], atol=1e-3)
        np.testing.assert_allclose(ours["scores"].numpy(), theirs.scores[kept], atol=1e-6)
        assert ours["labels"].tolist() == theirs.category_ids[kept].tolist()
        assert kept.any()


def test_floats_in_0_to_1_are_the_same_images(images: list[torch.Tensor]) -> None:
    detector = as_torchvision(calm_model(), score_threshold=0.0)
    for one, other in zip(detector(images), detector([image / 255 for image in images]), strict=True):
        torch.testing.assert_close(one["boxes"], other["boxes"], atol=1e-3, rtol=0)
    darker = detector([image // 2 for image in images])  # negative control
    assert not torch.allclose(darker[0]["scores"][:9], detector(images)[0]["scores"][:9], atol=1e-4)


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
    with pytest.raises(UsageError, match=r"targets\[0\]\['labels'\] has values 0 to 0; expected 1 to"):
        detector(images, wrong)


def test_wrong_arguments() -> None:
    with pytest.raises(UsageError, match="model"):
        as_torchvision(torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="fast"):
        as_torchvision(calm_model(), profile="fast")
    with pytest.raises(UsageError, match="recipe is of type str; expected a Recipe"):
        as_torchvision(calm_model(), recipe="x")  # type: ignore[arg-type]


@pytest.mark.parametrize("score", [2, -1, float("nan"), "a", None])
def test_what_is_not_a_score(score: Any) -> None:
    with pytest.raises(UsageError, match="score_threshold is"):
        as_torchvision(calm_model(), score_threshold=score)


def test_images_and_targets_may_be_read_once(
    images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]]
) -> None:
    detector = as_torchvision(calm_model(), score_threshold=0.0)
    for one, other in zip(detector(iter(images)), detector(images), strict=True):
        assert torch.equal(one["boxes"], other["boxes"])
    assert detector.train()(iter(images), iter(targets)).keys() == {"classification", "bbox_regression"}


@pytest.mark.parametrize("given", [None, 3, "ab", {"a": 1}])
def test_what_are_not_images(given: Any) -> None:
    with pytest.raises(UsageError, match=r"images is of type .*; expected a list with one for every image"):
        as_torchvision(calm_model())(given)


def test_boxes_have_an_area_and_lie_inside(images: list[torch.Tensor]) -> None:
    """As torchvision documents it: 0 <= x1 < x2 <= W; many anchors lie in the padding beside an image."""
    detector = as_torchvision(calm_model(), score_threshold=0.0, profile="official-eval-hard")
    raw = Predictor(detector.model, score_threshold=0.0, profile="official-eval-hard")
    for image, found in zip(images, detector(images), strict=True):
        height, width = image.shape[1:]
        assert found["boxes"].min() >= 0
        assert (found["boxes"][:, 2:] > found["boxes"][:, :2]).all()
        assert (found["boxes"].amax(dim=0)[2:] <= torch.tensor([width, height])).all()
        assert len(raw(image.numpy())[0]) > len(found["boxes"])  # negative control: some do not


@pytest.mark.parametrize("resize", ["half_pixel", "legacy"])
def test_targets_are_scaled_as_their_image_is(resize: str) -> None:
    """49 x 100 pixels become 31 x 64 or 31.36 x 64, by the arithmetic of the resize."""
    detector = as_torchvision(calm_model(resize=resize)).train()
    image, box = torch.zeros(3, 49, 100, dtype=torch.uint8), torch.tensor([[8.0, 4.0, 90.0, 45.0]])
    label = torch.tensor([1])
    found = detector([image], [{"boxes": box, "labels": label}])
    batch, _ = detector.prepared([image])
    height = {"half_pixel": 49 * 64 / 100, "legacy": 31.0}[resize]
    for factor, is_equal in ((height / 49, True), (0.5, False)):  # the second one is a negative control
        placed = box * torch.tensor([0.64, factor, 0.64, factor])
        targets = TargetAssigner(detector.model.config)([placed], [label])
        losses = DetectionLoss(make_recipe(), detector.model.config)(*detector.model(batch), targets)
        assert torch.isclose(found["bbox_regression"], losses.total - losses.classes, rtol=1e-4) == is_equal


@pytest.mark.parametrize("heads", [("segmentation",), ("object_detection", "segmentation")])
def test_a_segmentation_head_is_refused(heads: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="d0 has a segmentation head"):
        as_torchvision(small_model(heads=heads))


def test_half_precision_keeps_the_anchors(images: list[torch.Tensor]) -> None:
    model = calm_model(image_size=(64, 64))
    full = as_torchvision(model, score_threshold=0.0)(images)
    detector = as_torchvision(model, score_threshold=0.0).bfloat16()
    assert detector.anchors_yxyx.dtype == detector.loss.anchors_yxyx.dtype == torch.float32
    found = detector([image.double() / 255 for image in images])
    assert {each.dtype for each in found[0].values()} == {torch.float32, torch.int64}
    assert abs(found[0]["scores"].max() - full[0]["scores"].max()) < 0.05
    losses = detector.train()([images[0]], [{"boxes": torch.tensor([[1, 2, 30, 30]]), "labels": torch.tensor([1])}])
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_images_without_objects_train_the_background(images: list[torch.Tensor]) -> None:
    nothing = {"boxes": torch.zeros((0, 4)), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = as_torchvision(calm_model()).train()(images, [nothing, nothing])
    assert losses["bbox_regression"] == 0
    assert losses["classification"] > 0


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"boxes": torch.zeros(0, 4)}, "has no 'labels'"),
    "shapes": ({"boxes": torch.zeros(2, 4), "labels": torch.ones(1)}, r"boxes \(2, 4\) and labels \(1,\); expected"),
    "no dictionary": (None, "is of type NoneType; expected a dictionary with boxes"),  # type: ignore[dict-item]
    "lists": ({"boxes": [[1.0, 2.0, 3.0, 4.0]], "labels": [1]}, r"\['boxes'\] is of type list; expected a tensor"),
    "arrays": ({"boxes": np.zeros((0, 4)), "labels": np.zeros(0)}, r"\['boxes'\] is of type ndarray"),
    "no tensor": ({"boxes": torch.zeros(0, 4), "labels": None}, r"\['labels'\] is of type NoneType"),
    "float labels": ({"boxes": torch.tensor([[1, 2, 3, 4]]), "labels": torch.ones(1)}, r"holds torch.float32; .*int64"),
    "one box": ({"boxes": torch.zeros(4), "labels": torch.ones(1)}, r"boxes \(4,\)"),
    "degenerate": ({"boxes": torch.tensor([[3.0, 4.0, 3.0, 9.0]]), "labels": torch.tensor([1])}, "with an area"),
    "xywh": ({"boxes": torch.tensor([[30.0, 4.0, 5.0, 9.0]]), "labels": torch.tensor([1])}, "width and height"),
    "not a number": ({"boxes": torch.full((1, 4), float("nan")), "labels": torch.tensor([1])}, "with an area"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_target_is_named(images: list[torch.Tensor], targets: list[dict[str, torch.Tensor]], kind: str) -> None:
    target, expected = WRONG[kind]
    with pytest.raises(UsageError, match=rf"targets\[1\].*{expected}"):
        as_torchvision(calm_model()).train()(images, [targets[0], target])


def test_names_of_all_labels() -> None:
    assert as_torchvision(small_model(num_classes=3, label_map={2: "dog"})).names == {
        1: "class 1",
        2: "dog",
        3: "class 3",
    }
    assert as_torchvision(small_model(num_classes=90)).names[90] == "toothbrush"
