"""The detection loss as a part of anybody's loop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.errors import UsageError
from effdet_torch.geometry.boxes import decode_boxes_xyxy
from effdet_torch.train.objective import DetectionLoss, MovingNormalizer, TargetAssigner, Targets
from effdet_torch.train.recipe import Recipe

CONFIG = get_config("d0", image_size=128, num_classes=4)
BOX, LABEL = torch.tensor([[24.0, 40.0, 88.0, 104.0]]), torch.tensor([3])


class TinyDetector(nn.Module):
    """One convolution for each head, over the image at the size of every level."""

    def __init__(self, config: EfficientDetConfig) -> None:
        super().__init__()
        self.sizes = list(config.feature_sizes().values())
        self.classes = nn.Conv2d(3, config.anchors_per_location * config.num_classes, 3, padding=1)
        self.boxes = nn.Conv2d(3, config.anchors_per_location * 4, 3, padding=1)
        nn.init.constant_(self.classes.bias, -4.6)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        levels = [F.adaptive_avg_pool2d(images, size) for size in self.sizes]
        return [self.classes(level) for level in levels], [self.boxes(level) for level in levels]


@pytest.fixture
def targets() -> Targets:
    return TargetAssigner(CONFIG)([BOX, torch.zeros((0, 4))], [LABEL, torch.zeros(0)])


@pytest.fixture
def outputs() -> tuple[list[Tensor], list[Tensor]]:
    torch.manual_seed(0)
    with torch.no_grad():
        return TinyDetector(CONFIG)(torch.randn(2, 3, 128, 128))


def test_a_plain_loop_learns_where_the_object_is() -> None:
    torch.manual_seed(0)
    images = torch.zeros(2, 3, 128, 128)
    left, top, right, bottom = BOX[0].int().tolist()
    images[0, :, top:bottom, left:right] = 1
    targets = TargetAssigner(CONFIG)([BOX, torch.zeros((0, 4))], [LABEL, torch.zeros(0)])
    model, loss = TinyDetector(CONFIG), DetectionLoss(Recipe(), CONFIG)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    history = []
    for _ in range(150):
        optimizer.zero_grad()
        losses = loss(*model(images), targets)
        losses.total.backward()
        optimizer.step()
        history.append(losses)
    assert history[-1].classes < history[0].classes / 2
    assert history[-1].boxes < history[0].boxes / 2
    classes, deltas = (
        torch.cat([level.permute(0, 2, 3, 1).reshape(2, -1, width) for level in head], dim=1).detach()
        for head, width in zip(model(images), (CONFIG.num_classes, 4), strict=True)
    )
    anchor, channel = divmod(int(classes[0].argmax()), CONFIG.num_classes)
    assert channel == LABEL.item() - 1
    # The object has one colour, so the position inside it is open, by a quarter of its size.
    assert (decode_boxes_xyxy(deltas[0], loss.anchors_yxyx)[anchor] - BOX[0]).abs().max() < 24
    assert classes[1].max() < classes[0].max() - 2


@pytest.mark.parametrize("iou_loss", [None, "iou", "giou", "diou", "ciou"])
def test_total_is_the_weighted_sum(
    targets: Targets, outputs: tuple[list[Tensor], list[Tensor]], iou_loss: str | None
) -> None:
    recipe = Recipe(iou_loss=iou_loss, iou_loss_weight=3.0, box_loss_weight=7.0)  # type: ignore[arg-type]
    total, classes, boxes, iou = DetectionLoss(recipe, CONFIG)(*outputs, targets)
    torch.testing.assert_close(total, classes + 7 * boxes + 3 * iou)
    assert (iou > 0) == (iou_loss is not None)


def test_losses_are_divided_by_the_positive_anchors(
    targets: Targets, outputs: tuple[list[Tensor], list[Tensor]]
) -> None:
    loss = DetectionLoss(Recipe(iou_loss="giou"), CONFIG)
    own, one = loss(*outputs, targets), loss(*outputs, targets, normalizer=1.0)
    count = targets.positives.sum() + 1
    assert count > 2
    torch.testing.assert_close(list(one), [part * count for part in own])
    torch.testing.assert_close(list(loss(*outputs, targets, normalizer=count)), list(own))


def test_images_without_boxes_are_background_and_have_finite_losses(outputs: tuple[list[Tensor], list[Tensor]]) -> None:
    nothing = TargetAssigner(CONFIG)([torch.zeros((0, 4))] * 2, [torch.zeros(0)] * 2)
    for iou_loss in (None, "ciou"):
        leaves = [[level.clone().requires_grad_() for level in head] for head in outputs]
        losses = DetectionLoss(Recipe(iou_loss=iou_loss), CONFIG)(*leaves, nothing)  # type: ignore[arg-type]
        losses.total.backward()
        assert losses.boxes == losses.iou == 0
        assert losses.classes > 0
        assert all(level.grad is None or level.grad.isfinite().all() for head in leaves for level in head)


def test_autocast_does_not_change_the_loss(targets: Targets, outputs: tuple[list[Tensor], list[Tensor]]) -> None:
    loss = DetectionLoss(Recipe(iou_loss="ciou"), CONFIG)
    low = [[level.bfloat16().requires_grad_() for level in head] for head in outputs]
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(*low, targets)
    expected = loss(*[[level.float() for level in head] for head in low], targets)
    assert all(map(torch.equal, found, expected))
    assert found.total.dtype == torch.float32
    found.total.backward()
    assert all(level.grad is not None and level.grad.dtype == torch.bfloat16 for head in low for level in head)
    assert not torch.equal(found.total, loss(*outputs, targets).total)  # control: rounded outputs are others


def test_outputs_of_another_network_are_refused(targets: Targets, outputs: tuple[list[Tensor], list[Tensor]]) -> None:
    classes, boxes = outputs
    for other in (get_config("d0", image_size=128), get_config("d0", image_size=256, num_classes=4)):
        with pytest.raises(UsageError, match=r"class logits of the shapes .* make the loss from the model's config"):
            DetectionLoss(Recipe(), other)(classes, boxes, targets)
    with pytest.raises(UsageError, match="box deltas of the shapes"):
        DetectionLoss(Recipe(), CONFIG)(classes, boxes[::-1], targets)
    alone = TargetAssigner(CONFIG)([BOX], [LABEL])
    with pytest.raises(UsageError, match="class logits"):
        DetectionLoss(Recipe(), CONFIG)(classes, boxes, alone)
    assert DetectionLoss(Recipe(), CONFIG, image_size=(128, 128))(classes, boxes, targets).total > 0


def test_a_moving_normaliser_starts_at_zero() -> None:
    average = MovingNormalizer(0.9)
    numbers = [average(number).item() for number in (20.0, torch.tensor(100), 100.0)]
    assert numbers == pytest.approx([2.0, 11.8, 20.62])
    resumed = MovingNormalizer(0.9)
    resumed.load_state_dict(average.state_dict())
    assert resumed(20.0).item() == pytest.approx(20.558)
    assert MovingNormalizer(0.9)(20.0).item() == pytest.approx(2.0)  # control: without the state
