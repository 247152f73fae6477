"""Detections against those of the official code: same boxes, same order, same classes.

The arrays called `perclass_*` of `post_*.npz` come from the best class of every anchor, suppressed per class; those of
the evaluation path are `gendet_*_py0_max5000`, and `combined_*` is `combined_non_max_suppression` over all pairs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.ops import box_convert, clip_boxes_to_image

from effdet_torch.config import get_config
from effdet_torch.geometry import numpy_nms
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.geometry.boxes import decode_boxes_xyxy, yxyx_to_xyxy
from effdet_torch.geometry.nms import non_max_suppression
from effdet_torch.processing.cpu import CpuProcessing
from effdet_torch.processing.gpu import GpuProcessing
from effdet_torch.processing.numpy_postprocess import Detections
from effdet_torch.processing.postprocess import best_class, flatten_levels
from effdet_torch.processing.profiles import PROFILES, Profile

# Exponentials and sigmoids of two libraries, and products rounded in another order.
SCORE_ERROR = 1e-6
BOX_ERROR_PX = 2e-4

Arrays = Mapping[str, NDArray[np.float32]]
INPUT_SIZE = (512, 512)
TRAINED = get_config("d0", image_size=256)
IMAGE_ID = 37777


@pytest.fixture(scope="module", params=["img", "rand"])
def golden(shared: Path, request: pytest.FixtureRequest) -> Iterator[Arrays]:
    with np.load(shared / "reference" / "postprocess" / f"post_ema_{request.param}_512.npz") as arrays:
        yield arrays


@pytest.fixture(scope="module")
def trained(shared: Path) -> Iterator[Arrays]:
    with np.load(shared / "trained_d0_256" / f"ref_{IMAGE_ID:012d}.npz") as arrays:
        yield arrays


def nms_in_torch(*arguments: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    tensors = (torch.from_numpy(x)[None] if isinstance(x, np.ndarray) else x for x in arguments)
    indices, scores, num = non_max_suppression(*tensors)
    return indices[0, :num].numpy(), scores[0, :num].numpy()


Nms = Callable[..., tuple[NDArray[Any], NDArray[Any]]]


@pytest.fixture(params=[nms_in_torch, numpy_nms.non_max_suppression], ids=["torch", "numpy"])
def nms(request: pytest.FixtureRequest) -> Nms:
    return request.param


def suppress(golden: Arrays, source: str, profile: Profile, nms: Nms) -> dict[str, NDArray[np.float32]]:
    """Official candidates through our NMS: boxes (yxyx, original pixels), scores, classes of one image."""
    boxes, scores, classes = (golden[f"{source}_{k}"][0] for k in ("boxes", "scores", "classes"))
    limits = profile.max_detections, profile.iou_threshold, profile.score_threshold, profile.sigma / 2
    indices, scores = nms(boxes, scores, classes if profile.per_class else None, *limits)
    assert len(indices) == 100
    boxes = boxes[indices]
    if profile.clip:
        boxes = yxyx_to_xyxy(clip_boxes_to_image(yxyx_to_xyxy(torch.from_numpy(boxes)), INPUT_SIZE)).numpy()
    return {"boxes": boxes * golden["image_scales"][0], "scores": scores, "classes": classes[indices] + 1.0}


def differences(found: Arrays, golden: Arrays, name: str) -> dict[str, float]:
    """Compare with arrays of this name, or with rows of (image id, xmin, ymin, xmax, ymax, score, class)."""
    if name in golden:
        rows = golden[name][0]
        expected = {"boxes": rows[:, [2, 1, 4, 3]], "scores": rows[:, 5], "classes": rows[:, 6]}
    else:
        expected = {k: golden[f"{name}_{k}"][0] for k in ("boxes", "scores", "classes")}
    return {k: float(np.abs(found[k] - expected[k]).max()) for k in expected}


SOFT, HARD = PROFILES["official-eval"], PROFILES["official-eval-hard"]


@pytest.mark.parametrize(
    ("source", "name", "profile"),
    [
        ("prenms0", "global_gaussian_0.0", PROFILES["serving"]),
        ("prenms0", "global_gaussian_0.01", replace(PROFILES["serving"], score_threshold=0.01)),
        ("prenms0", "global_hard_0.0", PROFILES["serving-hard"]),
        ("prenms0", "global_hard_0.01", replace(PROFILES["serving-hard"], score_threshold=0.01)),
        ("prenms0", "perclass_gaussian_0.0", SOFT),
        ("prenms0", "perclass_hard_0.0", HARD),
        ("prenms5000", "combined", replace(HARD, clip=True)),
        ("prenms0", "gendet_gaussian_py0_max0", SOFT),
        ("prenms0", "gendet_hard_py0_max0", HARD),
        ("prenms5000", "gendet_gaussian_py0_max5000", SOFT),
        ("prenms5000", "gendet_hard_py0_max5000", HARD),
    ],
)
def test_official_candidates_give_the_official_detections(
    golden: Arrays, source: str, name: str, profile: Profile, nms: Nms
) -> None:
    found = differences(suppress(golden, source, profile, nms), golden, name)
    assert found == {"boxes": 0, "scores": pytest.approx(0, abs=SCORE_ERROR), "classes": 0}


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("prenms5000", replace(SOFT, sigma=1.0)),
        ("prenms5000", HARD),
        ("prenms5000", replace(SOFT, per_class=False)),
        ("prenms5000", replace(SOFT, clip=True)),
        ("prenms0", SOFT),
    ],
    ids=["sigma not halved", "hard", "global", "clipped", "best class per anchor"],
)
def test_the_comparison_sees_a_wrong_switch(golden: Arrays, source: str, wrong: Profile, nms: Nms) -> None:
    assert differences(suppress(golden, source, wrong, nms), golden, "gendet_gaussian_py0_max5000")["boxes"] > 1


def test_areas_have_no_extra_pixel(shared: Path, nms: Nms) -> None:
    # The official numpy implementation adds one; on this input its detections are others, and not ours.
    with np.load(shared / "reference" / "postprocess" / "post_ema_rand_512.npz") as golden:
        found = suppress(golden, "prenms5000", SOFT, nms)
        assert differences(found, golden, "gendet_gaussian_py1_max5000")["scores"] > 1e-4


def maps(trained: Arrays, prefix: str) -> list[torch.Tensor]:
    return [torch.from_numpy(trained[f"{prefix}_P{level}"]).permute(0, 3, 1, 2) for level in TRAINED.levels]


def detect(trained: Arrays, profile: str, device: str) -> Detections:
    """Official logits of one image through our postprocessing; that of a GPU runs anywhere."""
    scales, heads = trained["image_scale_to_original"], (maps(trained, "cls"), maps(trained, "box"))
    processing = GpuProcessing(TRAINED, "cpu") if device == "gpu" else CpuProcessing(TRAINED)
    (found,) = processing.detections(*heads, torch.from_numpy(scales), PROFILES[profile])
    return found


def test_candidates_of_the_trained_model(trained: Arrays) -> None:
    candidates = best_class(flatten_levels(maps(trained, "cls"), TRAINED.num_classes))
    deltas = flatten_levels(maps(trained, "box"), 4)
    boxes = decode_boxes_xyxy(deltas, make_anchors_yxyx(TRAINED))
    np.testing.assert_allclose(yxyx_to_xyxy(boxes).numpy(), trained["prenms_boxes"], atol=BOX_ERROR_PX, rtol=0)
    np.testing.assert_allclose(candidates.logits.sigmoid().numpy(), trained["prenms_scores"], atol=SCORE_ERROR, rtol=0)
    assert np.array_equal(candidates.classes.numpy(), trained["prenms_classes"])
    # Control: anchors in another order are noticed.
    swapped = make_anchors_yxyx(replace(TRAINED, aspect_ratios=TRAINED.aspect_ratios[::-1]))
    wrong = decode_boxes_xyxy(deltas, swapped)
    assert np.abs(yxyx_to_xyxy(wrong).numpy() - trained["prenms_boxes"]).max() > 1


@pytest.mark.parametrize(
    ("profile", "file"),
    [
        ("official-eval", "perclass5000_gaussian"),
        ("official-eval-hard", "perclass5000_hard"),
        ("hard", "perclass5000_hard"),
        ("serving", "global_gaussian"),
        ("serving-hard", "global_hard"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_coco_results_from_logits(shared: Path, trained: Arrays, profile: str, file: str, device: str) -> None:
    path = shared / "trained_d0_256" / "detections" / f"det_ema_pil_{file}.json"
    results = [result for result in json.loads(path.read_text()) if result["image_id"] == IMAGE_ID]
    found = detect(trained, profile, device)
    assert len(found.scores) == len(results)
    boxes = box_convert(torch.from_numpy(found.boxes_xyxy), "xyxy", "xywh").numpy()
    np.testing.assert_allclose(boxes, [result["bbox"] for result in results], atol=BOX_ERROR_PX, rtol=0)
    np.testing.assert_allclose(found.scores, [r["score"] for r in results], atol=SCORE_ERROR, rtol=0)
    assert found.classes.tolist() == [result["category_id"] for result in results]
