"""What runs on a GPU, against the CPU; skipped without one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from effdet_torch import Predictor
from effdet_torch.geometry.nms import non_max_suppression
from effdet_torch.inference.results.image_detections import ImageDetections
from effdet_torch.network.checkpoint import create_model
from effdet_torch.network.model import EfficientDet
from effdet_torch.optimize import cuda_graph
from effdet_torch.optimize.fuse import fuse
from support.networks import alive, max_over_rms

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
GPU = torch.device("cuda")
PROFILES = ("official-eval", "official-eval-hard", "serving", "serving-hard", "hard")


@pytest.fixture(scope="module")
def model() -> EfficientDet:
    return alive(create_model("d0", num_classes=5, image_size=256))


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    sizes = [(200, 300), (480, 640), (256, 256), (90, 400), (333, 200)]
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def copy_of(model: EfficientDet) -> EfficientDet:
    other = create_model("d0", num_classes=5, image_size=256)
    other.load_state_dict(model.state_dict())
    return other.eval()


def assert_near(found: ImageDetections, expected: ImageDetections, atol: float) -> None:
    """Every detection has a partner of the same class; a score at the end of the list may fall out of it."""
    least = max(float(found.scores.min()), float(expected.scores.min())) + 10 * atol
    for one, other in ((found, expected), (expected, found)):
        for box, score, number in zip(one.boxes_xyxy, one.scores, one.category_ids, strict=True):
            if score > least:
                near = np.abs(other.boxes_xyxy - box).max(axis=1) < 1e4 * atol
                near &= (np.abs(other.scores - score) < atol) & (other.category_ids == number)
                assert near.any()


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("fused", [True, False])
def test_detections_are_those_of_the_cpu(
    model: EfficientDet, images: list[NDArray[np.uint8]], profile: str, fused: bool
) -> None:
    options: dict[str, Any] = {"profile": profile, "score_threshold": 0, "fused": fused}
    on_cpu, on_gpu = (
        Predictor(copy_of(model), device="cpu", **options),
        Predictor(copy_of(model), device=GPU, **options),
    )
    for batch_size in (1, 3, 3):
        for found, expected in zip(on_gpu(images, batch_size), on_cpu(images), strict=True):
            assert_near(found, expected, 1e-4)


def test_network_input_is_that_of_the_cpu(model: EfficientDet, images: list[NDArray[np.uint8]]) -> None:
    pixels, scales = Predictor(copy_of(model), device=GPU).prepare(images)
    expected, expected_scales = Predictor(copy_of(model), device="cpu").prepare(images)
    np.testing.assert_allclose(pixels.cpu().numpy(), expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(scales.cpu().numpy(), expected_scales)


@pytest.mark.parametrize(("precision", "bound"), [("float32", 2e-4), ("float16", 0.5), ("bfloat16", 3.0)])
def test_a_graph_gives_what_the_network_gives(model: EfficientDet, precision: Any, bound: float) -> None:
    engine = Predictor(copy_of(model), device=GPU, precision=precision).engine
    with torch.inference_mode():
        for batch in (1, 2, 1, 2, cuda_graph.MAX_BATCH + 1):
            pixels = torch.randn(batch, 3, 256, 256)
            found = engine(pixels)
            again = engine(torch.zeros_like(pixels))  # must not overwrite what was found
            expected = fuse(model)(pixels)
            assert max_over_rms([[level.cpu().float() for level in head] for head in found], expected) < bound
            assert max_over_rms([[level.cpu().float() for level in head] for head in again], expected) > 0.5 * bound


def test_a_model_that_changes_is_recorded_again(model: EfficientDet) -> None:
    changing, pixels = copy_of(model), torch.randn(1, 3, 256, 256)
    engine = Predictor(changing, device=GPU).engine
    before = engine(pixels)[0][0]
    with torch.no_grad():
        changing.get_parameter("class_net.predict.conv_pw.bias").add_(0.5)
    np.testing.assert_allclose((engine(pixels)[0][0] - before).cpu(), 0.5, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.0, 0.25])
@pytest.mark.parametrize("count", [100, 5000, 49104])
def test_one_kernel_selects_what_many_select(sigma: float, count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(3, count, 2, generator=generator) * 400
    boxes = torch.cat((corners, corners + torch.rand(3, count, 2, generator=generator) * 80), dim=2).to(GPU)
    scores = torch.rand(3, count, generator=generator).to(GPU)
    classes = torch.randint(0, 4, (3, count), generator=generator).to(GPU)
    from effdet_torch.geometry import triton_nms

    options = (100, 0.5, 0.01 if sigma else -1e20, sigma)
    found = triton_nms.non_max_suppression(boxes, scores, classes, *options)
    expected = non_max_suppression(boxes, scores, classes, *options)
    assert torch.equal(found[2], expected[2])
    assert torch.allclose(found[1], expected[1], rtol=0, atol=1e-5)
    assert (found[0] == expected[0]).float().mean() > 0.99  # scores that differ by a rounding may change places
