"""Decoding, encoding and coordinate orders."""

from __future__ import annotations

import math

import torch
from torchvision.ops import box_convert, clip_boxes_to_image

from effdet_torch.geometry.boxes import (
    clip_boxes_xyxy,
    decode_boxes_xyxy,
    encode_boxes_xyxy,
    xyxy_to_xywh,
    yxyx_to_xyxy,
)


def _random_anchors(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(count, 2, generator=generator) * 300 - 50
    return torch.cat((corner, corner + 4 + torch.rand(count, 2, generator=generator) * 200), dim=1)


def test_decode_moves_and_scales_by_the_anchor() -> None:
    anchor_yxyx = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # 20 high, 40 wide, centre y 20, x 40
    deltas = torch.tensor([[[0.5, -0.25, math.log(2.0), math.log(0.5)]]])
    # Centre y 20 + 0.5 * 20, x 40 - 0.25 * 40; size 40 high, 20 wide.
    torch.testing.assert_close(decode_boxes_xyxy(deltas, anchor_yxyx), torch.tensor([[[20.0, 10.0, 40.0, 50.0]]]))
    far_left = decode_boxes_xyxy(torch.tensor([[0.0, -100.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
    assert far_left[0, 0] == -800  # not clipped


def test_anchors_may_differ_between_images() -> None:
    anchors = _random_anchors(6).view(2, 3, 4)
    deltas = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2))
    expected = torch.stack([decode_boxes_xyxy(d, a) for d, a in zip(deltas, anchors, strict=True)])
    assert torch.equal(decode_boxes_xyxy(deltas, anchors), expected)


def test_encode_inverts_decode() -> None:
    anchors = _random_anchors(200)
    deltas = torch.randn(3, 200, 4, generator=torch.Generator().manual_seed(3))
    boxes = decode_boxes_xyxy(deltas, anchors)
    torch.testing.assert_close(encode_boxes_xyxy(boxes, anchors), deltas, atol=1e-4, rtol=1e-4)
    # Control: boxes in the other order are other boxes.
    swapped = yxyx_to_xyxy(boxes)
    assert (encode_boxes_xyxy(swapped, anchors) - deltas).abs().max() > 0.1
    assert torch.equal(yxyx_to_xyxy(swapped), boxes)


def test_encode_keeps_empty_boxes_finite() -> None:
    deltas = encode_boxes_xyxy(torch.tensor([[5.0, 5.0, 5.0, 5.0]]), torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
    assert deltas.isfinite().all()
    assert deltas[0, 2] < -10


def test_width_and_height_are_those_of_torchvision() -> None:
    boxes = _random_anchors(100).view(5, 20, 4)
    assert torch.equal(xyxy_to_xywh(boxes), box_convert(boxes, "xyxy", "xywh"))
    assert xyxy_to_xywh(torch.zeros(0, 4)).shape == (0, 4)
    assert xyxy_to_xywh(torch.tensor([1.0, 2.0, 5.0, 9.0])).tolist() == [1, 2, 4, 7]


def test_clipped_boxes_are_those_of_torchvision() -> None:
    boxes = _random_anchors(100).view(5, 20, 4)
    assert torch.equal(clip_boxes_xyxy(boxes, (90, 160)), clip_boxes_to_image(boxes, (90, 160)))
    outside = torch.tensor([[-5.0, -6.0, 300.0, 400.0], [1.0, 2.0, 3.0, 4.0]])
    assert clip_boxes_xyxy(outside, (90, 160)).tolist() == [[0, 0, 160, 90], [1, 2, 3, 4]]
    assert not torch.equal(clip_boxes_xyxy(boxes, (160, 90)), clip_boxes_to_image(boxes, (90, 160)))  # height first
