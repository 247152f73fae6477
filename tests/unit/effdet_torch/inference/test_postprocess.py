"""Candidate selection and profiles; `tests/parity` compares with official results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.errors import ConfigError
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.geometry.boxes import yxyx_to_xyxy
from effdet_torch.inference.postprocess import (
    PROFILES,
    Detections,
    Profile,
    best_class,
    flatten_levels,
    postprocess,
    top_k,
)

CONFIG = get_config("d0", image_size=(96, 160), num_classes=6)


def random_outputs(config: EfficientDetConfig, batch: int = 2, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """Class logits and box deltas per level."""
    generator = torch.Generator().manual_seed(seed)
    anchors = config.anchors_per_location

    def maps(channels: int) -> list[Tensor]:
        sizes = config.feature_sizes().values()
        return [torch.randn(batch, channels, *size, generator=generator) for size in sizes]

    return maps(anchors * config.num_classes), [level * 0.3 for level in maps(anchors * 4)]


def detect(profile: str | Profile, scales: tuple[float, ...] = (1.0, 1.0), seed: int = 0) -> Detections:
    logits, deltas = random_outputs(CONFIG, len(scales), seed)
    anchors = make_anchors_yxyx(CONFIG)
    return postprocess(logits, deltas, anchors, torch.tensor(scales), CONFIG.image_size, profile)


def top_k_by_sorting(logits: Tensor, k: int) -> set[int]:
    """Indices of the k highest values of one image, flattened as (anchor, class); lower index first."""
    flat = logits.flatten().numpy()
    return set(np.lexsort((np.arange(flat.size), -flat))[:k].tolist())


@pytest.mark.parametrize("k", [1, 7, 300, 5000])
@pytest.mark.parametrize("distinct", [True, False], ids=["distinct", "ties"])
def test_top_k_takes_the_highest_and_breaks_ties_by_index(k: int, distinct: bool) -> None:
    generator = torch.Generator().manual_seed(k)
    logits = torch.randn(2, 90, 7, generator=generator)
    if not distinct:
        logits = (2 * logits).round() / 2  # many equal values, 0.0 and -0.0 among them
    candidates = top_k(logits, k)
    assert candidates.logits.shape[1] == min(k, 90 * 7)
    for image in range(2):
        pairs = (candidates.anchors[image] * 7 + candidates.classes[image]).tolist()
        assert set(pairs) == top_k_by_sorting(logits[image] + 0.0, k)
        assert torch.equal(candidates.logits[image], logits[image].flatten()[pairs])


def test_top_k_is_ordered_by_class_then_anchor() -> None:
    candidates = top_k(torch.randn(3, 50, 4, generator=torch.Generator().manual_seed(0)), 60)
    order = candidates.classes * 50 + candidates.anchors
    assert (order.diff(dim=1) > 0).all()


def test_best_class_prefers_the_lower_of_equals() -> None:
    candidates = best_class(torch.tensor([[[0.0, 2.0, 2.0], [-1.0, -3.0, -1.0]]]))
    assert candidates.classes.tolist() == [[1, 0]]
    assert candidates.logits.tolist() == [[2.0, -1.0]]
    assert candidates.anchors.tolist() == [[0, 1]]


def test_flatten_levels_has_the_order_of_the_anchors() -> None:
    levels = [torch.arange(2 * 6 * 2 * 3).view(2, 6, 2, 3).float(), torch.arange(2 * 6).view(2, 6, 1, 1).float()]
    flat = flatten_levels(levels, 3)  # 2 anchors x 3 values
    assert flat.shape == (2, 2 * 3 * 2 + 2, 3)
    y, x, anchor = 1, 2, 1
    assert torch.equal(flat[1, (y * 3 + x) * 2 + anchor], levels[0][1, 3:6, y, x])
    assert torch.equal(flat[0, -1], levels[1][0, 3:6, 0, 0])


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_detects(name: str) -> None:
    if PROFILES[name].backend == "torchvision":
        pytest.importorskip("torchvision")
    detections = detect(name)
    assert detections.boxes_xyxy.shape == (2, 100, 4)
    assert detections.scores.shape == detections.classes.shape == (2, 100)
    assert (detections.num_detections > 0).all()
    assert (detections.scores.diff(dim=1) <= 0).all()
    assert detections.classes.min() >= 0
    assert detections.classes.max() == CONFIG.num_classes


def test_hard_profiles_agree() -> None:
    pytest.importorskip("torchvision")
    ours, theirs = detect("official-eval-hard"), detect("hard")
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("pair", [("official-eval", "official-eval-hard"), ("official-eval", "serving")])
def test_profiles_differ(pair: tuple[str, str]) -> None:
    first, second = (detect(name) for name in pair)
    assert not torch.equal(first.scores, second.scores)


def test_only_serving_clips() -> None:
    height, width = CONFIG.image_size
    limits = torch.tensor([width, height, width, height])
    for name, clips in (("serving", True), ("official-eval", False)):
        boxes = detect(name).boxes_xyxy
        assert bool((boxes >= 0).all() and (boxes <= limits).all()) is clips


def test_boxes_are_scaled_to_the_original() -> None:
    plain, scaled = detect("serving"), detect("serving", scales=(2.0, 0.5))
    factors = torch.tensor([2.0, 0.5])[:, None, None]
    assert torch.equal(scaled.boxes_xyxy, plain.boxes_xyxy * factors)
    assert torch.equal(scaled.scores, plain.scores)


def test_class_is_channel_plus_one_and_box_is_its_anchors() -> None:
    logits, deltas = random_outputs(CONFIG, batch=1)
    logits = [level.fill_(-20) for level in logits]
    deltas = [level.zero_() for level in deltas]
    y, x, anchor, channel = 3, 5, 7, 4
    logits[0][0, anchor * CONFIG.num_classes + channel, y, x] = 3.0
    anchors = make_anchors_yxyx(CONFIG)
    found = postprocess(logits, deltas, anchors, torch.ones(1), CONFIG.image_size)
    assert found.num_detections.tolist() == [1]
    assert found.classes[0, 0] == channel + 1
    assert found.scores[0, 0] == torch.tensor(3.0).sigmoid()
    columns = CONFIG.feature_sizes()[3][1]
    torch.testing.assert_close(found.boxes_xyxy[0, 0], yxyx_to_xyxy(anchors[(y * columns + x) * 9 + anchor]))
    assert not found.boxes_xyxy[0, 1:].any()
    assert not found.classes[0, 1:].any()
    assert not found.scores[0, 1:].any()


def test_batch_equals_single_images() -> None:
    logits, deltas = random_outputs(CONFIG, batch=3)
    anchors, scales = make_anchors_yxyx(CONFIG), torch.tensor([1.0, 2.0, 3.0])
    together = postprocess(logits, deltas, anchors, scales, CONFIG.image_size)
    for image in range(3):
        only = slice(image, image + 1)
        single = [level[only] for level in logits], [level[only] for level in deltas]
        alone = postprocess(*single, anchors, scales[only], CONFIG.image_size)
        assert all(torch.equal(a[only], b) for a, b in zip(together, alone, strict=True))


def test_channels_last_maps_give_the_same() -> None:
    logits, deltas = random_outputs(CONFIG)
    anchors, scales = make_anchors_yxyx(CONFIG), torch.ones(2)
    expected = postprocess(logits, deltas, anchors, scales, CONFIG.image_size)
    swapped = ([level.contiguous(memory_format=torch.channels_last) for level in maps] for maps in (logits, deltas))
    found = postprocess(*swapped, anchors, scales, CONFIG.image_size)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_own_profile() -> None:
    assert detect(Profile("best_class", max_detections=7)).scores.shape == (2, 7)


def test_exportable() -> None:
    anchors = make_anchors_yxyx(CONFIG)
    logits, deltas = random_outputs(CONFIG)

    class Post(torch.nn.Module):
        def forward(self, logits: list[Tensor], deltas: list[Tensor], scales: Tensor) -> Detections:
            profile = Profile(sigma=0.5, score_threshold=0.001, max_detections=5)
            return postprocess(logits, deltas, anchors, scales, CONFIG.image_size, profile)

    exported = torch.export.export(Post(), (logits, deltas, torch.ones(2))).module()
    inputs = (*random_outputs(CONFIG, seed=1), torch.tensor([1.0, 3.0]))
    assert all(torch.equal(a, b) for a, b in zip(exported(*inputs), Post()(*inputs), strict=True))


def test_unknown_profile() -> None:
    with pytest.raises(ConfigError, match="unknown postprocessing profile 'fast'; expected one of official-eval"):
        detect("fast")


@pytest.mark.parametrize(
    "wrong",
    [
        {"candidates": "all"},
        {"backend": "numpy"},
        {"backend": "torchvision", "sigma": 0.5, "score_threshold": 0.001},
        {"backend": "torchvision", "per_class": False},
        {"sigma": 0.5},
        {"max_detections": 0},
    ],
)
def test_profiles_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Profile(**wrong)


def test_anchors_of_another_size() -> None:
    logits, deltas = random_outputs(CONFIG)
    anchors = make_anchors_yxyx(get_config("d0", image_size=128))
    with pytest.raises(ConfigError, match="make the anchors for the image size"):
        postprocess(logits, deltas, anchors, torch.ones(2), CONFIG.image_size)
