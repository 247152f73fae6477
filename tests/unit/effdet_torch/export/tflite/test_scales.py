"""Scales and zero points: what they can hold, what shares them, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from effdet_torch.config import get_config
from effdet_torch.errors import ConfigError, EffdetError
from effdet_torch.export.tflite.graph import Graph, Operation, Tensor
from effdet_torch.export.tflite.scales import SIGMOID, encode, of_activations, of_bias, of_kernel, of_pixels, of_range

FLOAT = np.dtype(np.float32)


@pytest.mark.parametrize("ends", [(-1.0, 1.0), (0.0, 6.0), (2.0, 3.0), (-5.0, -1.0), (-1e-6, 4.0), (0.0, 1e-20)])
def test_a_range_is_held_to_half_a_step(ends: tuple[float, float]) -> None:
    found = of_range(*ends)
    values = np.linspace(*ends, 101, dtype=np.float32)
    codes = encode(values, found, -128, 127)
    scale = found.scales.astype(np.float64)
    assert np.abs((codes - found.zero_points) * scale - values).max() <= 1.001 * scale / 2
    assert encode(np.zeros(1, np.float32), found, -128, 127) == found.zero_points  # 0 is exact: it pads
    far = encode(np.float32([1e9, -1e9]), found, -128, 127)
    assert far.tolist() == [127, -128]


@pytest.mark.parametrize("ends", [(0.0, 0.0), (np.nan, 1.0), (0.0, np.inf)])
def test_a_range_of_nothing_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(EffdetError, match="its values lie between"):
        of_range(*ends)


def test_every_channel_of_a_kernel_has_its_own_scale() -> None:
    kernel = np.float32([[1.1, -2, 0.5], [0.011, 0, 0.02], [0, 0, 0]]).reshape(3, 1, 1, 3)
    found = of_kernel(kernel, 0, [])
    assert found.scales[:2] == pytest.approx([2 / 127, 0.02 / 127])
    assert encode(kernel, found, -127, 127).reshape(3, 3).tolist() == [[70, -127, 32], [70, 0, 127], [0, 0, 0]]
    assert not found.zero_points.any()
    depthwise = of_kernel(kernel.transpose(1, 2, 3, 0), 3, [])
    assert np.array_equal(depthwise.scales, found.scales)
    assert depthwise.axis == 3


@pytest.mark.parametrize("kernel", [[[1e-12, 0], [1, 1]], [[0, 0], [0, 0]]])
def test_a_bias_fits_whatever_its_channel_weighs(kernel: list[list[float]]) -> None:
    weights, bias = np.float32(kernel).reshape(2, 1, 1, 2), np.float32([3, -300])
    found = of_kernel(weights, 0, [(bias, 0.02)])
    scales = of_bias(np.float32(0.02), found)
    codes = encode(bias, scales, -(2**31 - 1), 2**31 - 1)
    assert np.abs(codes).max() < 2**31 - 1
    assert codes * scales.scales.astype(np.float64) == pytest.approx(bias, rel=1e-5)


def test_pixels_are_their_own_codes() -> None:
    found = of_pixels(get_config("lite0"))
    pixels = np.arange(256)
    normalized = ((pixels - 127) / 128).astype(np.float32)
    assert np.array_equal(encode(normalized, found, -128, 127), pixels - 128)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"normalization": "scale_range"},
        {"mean_rgb": (0.5,) * 3},
        {"std_rgb": (1.0, 2.0, 3.0)},
        {"mean_rgb": (256.0,) * 3},
        {"mean_rgb": (-1.0,) * 3},
    ],
)
def test_another_normalization_is_refused(settings: dict[str, object]) -> None:
    config = get_config("lite0" if settings else "d0", **settings)
    with pytest.raises(ConfigError, match="one scale and zero point must stand for their normalisation"):
        of_pixels(config)


@pytest.mark.parametrize("mean", [0, 255])
def test_the_ends_of_the_pixels_are_means(mean: int) -> None:
    assert of_pixels(get_config("lite0", mean_rgb=(float(mean),) * 3)).zero_points.tolist() == [mean - 128]


def graph() -> tuple[Graph, dict[str, Tensor]]:
    """A pooled image and another one, joined, and the sigmoid of both; the image's double."""
    names = ("image", "sum", "pooled", "reshaped", "joined", "scores")
    x = {name: Tensor(name, (1, 4), FLOAT) for name in names}
    operations = [
        Operation("ADD", (x["image"], x["image"]), (x["sum"],)),
        Operation("MAX_POOL_2D", (x["sum"],), (x["pooled"],)),
        Operation("RESHAPE", (x["pooled"],), (x["reshaped"],)),
        Operation("CONCATENATION", (x["reshaped"], x["pooled"]), (x["joined"],)),
        Operation("LOGISTIC", (x["joined"],), (x["scores"],)),
    ]
    return Graph({"images": x["image"]}, [x["scores"]], ["output_0"], operations, "predict"), x


def test_what_moves_codes_shares_their_scale() -> None:
    whole, x = graph()
    ranges = {tensor: (-float(place), 2.0 * place) for place, tensor in enumerate(x.values())}
    image = of_range(-1, 1)
    found = of_activations(whole, ranges, image)
    shared = [found[x[name]] for name in ("sum", "pooled", "reshaped", "joined")]
    assert all(item is shared[0] for item in shared)
    assert shared[0].scales == np.float32(12 / 255)  # of the widest range, -4 to 8
    assert found[x["image"]] is image
    assert found[x["scores"]] is SIGMOID


def test_a_tensor_that_is_always_0_is_named() -> None:
    whole, x = graph()
    with pytest.raises(
        EffdetError, match=r"'joined' cannot be quantised: its values lie between 0 and 0; .* Calibrate with"
    ):
        of_activations(whole, dict.fromkeys(x.values(), (0.0, 0.0)), of_range(-1, 1))
