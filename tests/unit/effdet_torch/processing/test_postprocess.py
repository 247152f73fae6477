"""Candidate selection and profiles; `tests/parity` compares with official results."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from effdet_torch.config import get_config
from effdet_torch.errors import ConfigError
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.geometry.boxes import yxyx_to_xyxy
from effdet_torch.geometry.nms import non_max_suppression
from effdet_torch.processing.numpy_postprocess import postprocess as numpy_postprocess
from effdet_torch.processing.postprocess import (
    Candidates,
    Detections,
    _places_in_class,
    _selected,
    best_class,
    flatten_levels,
    postprocess,
    top_k,
)
from effdet_torch.processing.profiles import PROFILES, Profile, get_profile

CONFIG = get_config("d0", image_size=(96, 160), num_classes=6)
ANCHORS = make_anchors_yxyx(CONFIG)
Outputs = tuple[list[Tensor], list[Tensor]]


def random_outputs(batch: int = 2, seed: int = 0) -> Outputs:
    """Class logits and box deltas per level."""
    generator = torch.Generator().manual_seed(seed)
    anchors = CONFIG.anchors_per_location

    def maps(channels: int) -> list[Tensor]:
        sizes = CONFIG.feature_sizes().values()
        return [torch.randn(batch, channels, *size, generator=generator) for size in sizes]

    return maps(anchors * CONFIG.num_classes), [level * 0.3 for level in maps(anchors * 4)]


def detect(
    profile: str | Profile, scales: tuple[float, ...] = (1.0, 1.0), outputs: Outputs | None = None
) -> Detections:
    outputs = outputs or random_outputs(len(scales))
    return postprocess(*outputs, ANCHORS, torch.tensor(scales), CONFIG.image_size, profile)


def assert_equal(first: Detections, second: Detections, images: slice = slice(None)) -> None:
    assert all(torch.equal(a[images], b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("k", [1, 7, 300, 5000])
@pytest.mark.parametrize("distinct", [True, False], ids=["distinct", "ties"])
def test_top_k_takes_the_highest_and_breaks_ties_by_index(k: int, distinct: bool) -> None:
    generator = torch.Generator().manual_seed(k)
    logits = torch.randn(2, 90, 7, generator=generator)
    if not distinct:
        logits = (2 * logits).round() / 2  # many equal values, 0.0 and -0.0 among them
    candidates = top_k(logits, k)
    assert candidates.logits.shape[1] == min(k, 90 * 7)
    assert ((candidates.classes * 90 + candidates.anchors).diff(dim=1) > 0).all()  # the order of the result
    for image in range(2):
        pairs = (candidates.anchors[image] * 7 + candidates.classes[image]).tolist()
        flat = logits[image].flatten().numpy() + 0.0
        assert set(pairs) == set(np.lexsort((np.arange(flat.size), -flat))[:k].tolist())
        assert torch.equal(candidates.logits[image], logits[image].flatten()[pairs])


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


@pytest.mark.parametrize("profile", [*PROFILES, Profile("best_class", max_detections=7)])
def test_every_profile_detects(profile: str | Profile) -> None:
    detections, count = detect(profile), 100 if isinstance(profile, str) else 7
    assert detections.boxes_xyxy.shape == (2, count, 4)
    assert detections.scores.shape == detections.classes.shape == (2, count)
    assert (detections.num_detections > 0).all()
    assert (detections.scores.diff(dim=1) <= 0).all()
    assert set(detections.classes.unique().tolist()) <= set(range(CONFIG.num_classes + 1))
    assert detections.classes.max() == CONFIG.num_classes
    # Boxes are scaled to the original, and only those of serving stay inside the network input.
    scaled = detect(profile, scales=(2.0, 0.5))
    assert torch.equal(scaled.boxes_xyxy, detections.boxes_xyxy * torch.tensor([2.0, 0.5])[:, None, None])
    assert torch.equal(scaled.scores, detections.scores)
    height, width = CONFIG.image_size
    inside = (detections.boxes_xyxy >= 0) & (detections.boxes_xyxy <= torch.tensor([width, height] * 2))
    assert bool(inside.all()) == (isinstance(profile, str) and (PROFILES[profile].clip or PROFILES[profile].to_image))


def test_hard_profiles_agree_and_others_differ() -> None:
    assert_equal(detect("official-eval-hard"), detect("hard"))
    assert_equal(detect("tflite-regular"), detect("hard"))  # more candidates than needed here
    clipped, whole = detect("serving-hard"), detect("tflite")
    assert torch.equal(clipped.scores, whole.scores)
    assert not torch.equal(clipped.boxes_xyxy, whole.boxes_xyxy)
    scores = {tuple(detect(name).scores.flatten().tolist()) for name in PROFILES}
    assert len(scores) == len(PROFILES) - 3


def test_class_is_channel_plus_one_and_box_is_its_anchors() -> None:
    logits, deltas = random_outputs(batch=1)
    logits = [level.fill_(-20) for level in logits]
    deltas = [level.zero_() for level in deltas]
    y, x, anchor, channel = 3, 5, 7, 4
    logits[0][0, anchor * CONFIG.num_classes + channel, y, x] = 3.0
    found = detect("official-eval", (1.0,), (logits, deltas))
    assert found.num_detections.tolist() == [1]
    assert found.classes[0, 0] == channel + 1
    assert found.scores[0, 0] == torch.tensor(3.0).sigmoid()
    columns = CONFIG.feature_sizes()[3][1]
    torch.testing.assert_close(found.boxes_xyxy[0, 0], yxyx_to_xyxy(ANCHORS[(y * columns + x) * 9 + anchor]))
    assert not any(padding[0, 1:].any() for padding in (found.boxes_xyxy, found.classes, found.scores))


def test_batch_equals_single_images_in_any_memory_format() -> None:
    outputs, scales = random_outputs(batch=3), (1.0, 2.0, 3.0)
    together = detect("official-eval", scales, outputs)
    for image in range(3):
        logits, deltas = ([level[image : image + 1] for level in maps] for maps in outputs)
        assert_equal(
            together, detect("official-eval", scales[image : image + 1], (logits, deltas)), slice(image, image + 1)
        )
    logits, deltas = ([level.contiguous(memory_format=torch.channels_last) for level in maps] for maps in outputs)
    assert_equal(together, detect("official-eval", scales, (logits, deltas)))


@pytest.mark.parametrize("name", PROFILES)
def test_exportable(name: str) -> None:
    profile = replace(PROFILES[name], max_detections=5)

    class Post(torch.nn.Module):
        def forward(self, logits: list[Tensor], deltas: list[Tensor], scales: Tensor) -> Detections:
            return postprocess(logits, deltas, ANCHORS, scales, CONFIG.image_size, profile)

    program = torch.export.export(Post(), (*random_outputs(), torch.ones(2)))
    assert "aten.view.dtype" not in str(program.graph)  # neither tracers nor ONNX have it
    inputs = (*random_outputs(seed=1), torch.tensor([1.0, 3.0]))
    assert_equal(program.module()(*inputs), Post()(*inputs))


class Reads(TorchDispatchMode):
    """Counts what makes a program wait for a GPU: a number that Python reads, or a shape that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        waits = func.overloadpacket in (aten._local_scalar_dense, aten.nonzero, aten.masked_select)
        masked = func.overloadpacket is aten.index and any(index.dtype == torch.bool for index in args[1])
        self.count += waits or masked
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_waits_for_a_gpu(profile: str) -> None:
    with Reads() as reads:
        found = detect(profile)
    assert reads.count == 0
    with Reads() as reads:  # negative controls
        found.scores[found.scores > 0.5].sum().item()
    assert reads.count == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"candidates": "all"}, "candidates is 'all'; expected 'top_k' or 'best_class'"),
        ({"sigma": 0.5}, "score_threshold is -inf; expected 0 or more with soft NMS"),
        ({"max_detections": 0}, "must be at least 1"),
    ],
)
def test_profiles_that_make_no_sense(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Profile(**wrong)


def test_unknown_profile_and_anchors_of_another_size() -> None:
    with pytest.raises(ConfigError, match="unknown postprocessing profile 'fast'; expected one of official-eval"):
        detect("fast")
    anchors = make_anchors_yxyx(get_config("d0", image_size=128))
    with pytest.raises(ConfigError, match="make the anchors for the image size"):
        postprocess(*random_outputs(), anchors, torch.ones(2), CONFIG.image_size)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, PROFILES["serving"]),
        ({"method": "hard"}, PROFILES["serving-hard"]),
        ({"sigma": 0.3, "max_output_size": 20}, replace(PROFILES["serving"], sigma=0.3, max_detections=20)),
        ({"method": "hard", "iou_thresh": 0.6}, replace(PROFILES["serving-hard"], iou_threshold=0.6)),
        ({"method": "hard", "sigma": 0.3}, PROFILES["serving-hard"]),  # hard NMS has no sigma
        ({"score_thresh": 0.2}, replace(PROFILES["serving"], score_threshold=0.2)),
        ({"max_nms_inputs": 300}, replace(PROFILES["serving"], candidates="top_k", max_candidates=300)),
    ],
)
def test_a_model_has_a_profile_of_its_own(given: dict[str, Any], expected: Profile) -> None:
    config = get_config("d0", nms_configs=tuple(given.items()))
    assert get_profile("model", config) == expected
    assert get_profile("serving", config) == PROFILES["serving"]
    with pytest.raises(ConfigError, match="unknown postprocessing profile 'model'; expected one of official-eval"):
        get_profile("model")


def selected(profile: Profile, scales: Tensor, outputs: Outputs) -> tuple[Detections, list[Any]]:
    """What a profile detects: in torch, and image by image in NumPy."""
    found = postprocess(*outputs, ANCHORS, scales, CONFIG.image_size, profile)
    logits, deltas = ([level.numpy() for level in head] for head in outputs)
    images = zip(zip(*logits, strict=True), zip(*deltas, strict=True), scales.numpy(), strict=True)
    alone = [numpy_postprocess(*image[:2], ANCHORS.numpy(), image[2], CONFIG.image_size, profile) for image in images]
    return found, alone


@pytest.mark.parametrize("per_class", [0, 3, 200])
@pytest.mark.parametrize("to_image", [True, False])
def test_what_a_profile_selects_further_is_the_same_in_numpy(per_class: int, to_image: bool) -> None:
    profile = Profile(score_threshold=1e-8, max_detections=40, max_per_class=per_class, to_image=to_image)
    scales = torch.tensor([[2.0, 3.0, 100.0, 50.0], [0.5, 0.5, 160.0, 96.0]])
    found, alone = selected(profile, scales, random_outputs())
    for image, single in enumerate(alone):
        count = int(found.num_detections[image])
        assert count == len(single.scores)
        assert torch.equal(found.classes[image, :count], torch.from_numpy(single.classes))
        torch.testing.assert_close(found.scores[image, :count], torch.from_numpy(single.scores))
        torch.testing.assert_close(found.boxes_xyxy[image, :count], torch.from_numpy(single.boxes_xyxy))
        if per_class:
            assert np.bincount(single.classes).max() <= per_class
        x_scale, y_scale, width, height = scales[image].tolist()
        ends = np.array([width * x_scale, height * y_scale] * 2) + 1e-3
        assert ((single.boxes_xyxy >= 0) & (single.boxes_xyxy <= ends)).all() == to_image
    assert not found.scores[0, int(found.num_detections[0]) :].any()


def test_places_in_a_class_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = torch.randint(0, 4, (2, 50), generator=torch.Generator().manual_seed(0))
    expected = [[row[:place].count(one) for place, one in enumerate(row)] for row in classes.tolist()]
    for rows in (7, 50, 512):
        monkeypatch.setattr("effdet_torch.processing.postprocess.ROWS", rows)
        assert _places_in_class(classes).tolist() == expected


def test_many_boxes_are_not_compared_all_at_once() -> None:
    """Not more than 512 rows of 20 000 boxes, where all would be 4e8 values."""

    class Largest(TorchDispatchMode):
        values = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = function(*args, **(kwargs or {}))
            if isinstance(made, Tensor):
                self.values = max(self.values, made.numel())
            return made

    with Largest() as largest:
        _places_in_class(torch.zeros(1, 20_000).long())
    assert 20_000 < largest.values <= 512 * 20_000


def test_boxes_outside_the_image_suppress_and_do_not_count() -> None:
    """Three boxes: one in the padding, one that it suppresses, one in the image; in the API's order of steps."""
    boxes = torch.tensor([[[60.0, 0.0, 80.0, 20.0], [56.0, 0.0, 76.0, 20.0], [0.0, 0.0, 20.0, 20.0]]])
    candidates = Candidates(
        torch.tensor([[3.0, 2.0, 1.0]]), torch.zeros(1, 3).long(), torch.zeros(1, 3).long(), torch.ones(1).bool()
    )
    scales = torch.tensor([[1.0, 1.0, 58.0, 96.0]])
    for profile, expected in (
        (Profile(score_threshold=0.0, to_image=True), [[0.0, 0.0, 20.0, 20.0]]),
        (Profile(score_threshold=0.0), [[60.0, 0.0, 80.0, 20.0], [0.0, 0.0, 20.0, 20.0]]),  # negative control
    ):
        found = _selected(boxes, candidates, scales, CONFIG.image_size, profile, non_max_suppression)
        assert found.boxes_xyxy[0, : int(found.num_detections)].tolist() == expected
