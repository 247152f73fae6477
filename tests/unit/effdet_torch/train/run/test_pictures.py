"""Curves and samples: files that open, are not blank, and show what they should."""

from __future__ import annotations

from io import BytesIO
from typing import Literal

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.inference.results.visualize import class_color
from effdet_torch.processing.numpy_preprocess import preprocess
from effdet_torch.train.run.curves import curves_png
from effdet_torch.train.run.pictures import CAPTION_PX, Boxes, training_png, validation_png, visible
from effdet_torch.train.run.results import Results
from support.train_results import NASTY, epoch_result

NAMES = {1: "cat", 2: NASTY}
BOX = [40.0, 40.0, 100.0, 90.0]


def pixels(png: bytes) -> np.ndarray:
    with Image.open(BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def colors(image: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, image.reshape(-1, 3).tolist()))


def config(normalization: Literal["mean_std", "scale_range", "advprop"] = "mean_std") -> EfficientDetConfig:
    return get_config("d0", image_size=128, normalization=normalization)


@pytest.mark.parametrize("aps", [(), (0.1,), (None, None), (0.1, None, -1.0, 0.4)])
def test_curves_of_any_run(aps: tuple[float | None, ...]) -> None:
    png = curves_png(Results(tuple(epoch_result(epoch, ap) for epoch, ap in enumerate(aps, start=1))))
    assert pixels(png).shape[:2] == (432, 1440)


def test_curves_show_every_column() -> None:
    """What a number changes: its own plot, the left, middle or right third."""
    base = [epoch_result(1), epoch_result(2)]
    drawn = pixels(curves_png(Results(tuple(base))))
    for third, changes in enumerate(({"losses": {"total": 5.0}}, {"lr": 0.5}, {"ap": 0.9})):
        other = pixels(curves_png(Results((base[0], epoch_result(2, **changes)))))  # type: ignore[arg-type]
        differs = (
            (drawn != other).any(axis=2).sum(axis=0)
        )  # pixels of each column; other axes' labels may move a little
        assert differs.reshape(3, -1).sum(axis=1).argmax() == third


def test_the_curve_of_ap_is_in_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = dict[str, list[float]]()
    monkeypatch.setattr(Axes, "plot", lambda _, x, y, label, **__: drawn.setdefault(label, list(y)))
    curves_png(Results((epoch_result(1, 0.25), epoch_result(2, None), epoch_result(3, 0.5))))
    assert drawn["AP, ema"] == [25, 50]
    assert drawn["total"][0] == epoch_result(1).losses["total"]  # negative control


@pytest.mark.parametrize("normalization", ["mean_std", "scale_range", "advprop"])
def test_the_network_input_becomes_the_image_again(
    normalization: Literal["mean_std", "scale_range", "advprop"],
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    batch, _ = preprocess([image], config(normalization))
    np.testing.assert_array_equal(visible(batch, config(normalization))[0], image)
    others: dict[str, Literal["mean_std", "advprop"]] = {"mean_std": "advprop"}
    wrong = visible(batch, config(others.get(normalization, "mean_std")))
    assert (wrong[0] != image).any()  # negative control


def test_training_images_with_their_boxes() -> None:
    batch = np.zeros((2, 3, 128, 128), np.float32)
    boxes = [Boxes([BOX], [1]), Boxes([], [])]
    picture = pixels(training_png(batch, boxes, ["first", "second"], NAMES, config()))
    assert picture.shape == (128 + CAPTION_PX, 256, 3)
    assert class_color(1) in colors(picture[CAPTION_PX:, :128])
    assert colors(picture[CAPTION_PX:, 128:]) == {(124, 116, 104)}  # the mean colour alone
    assert (0, 0, 0) in colors(picture[:CAPTION_PX])


def test_validation_images_side_by_side() -> None:
    image = np.full((60, 1000, 3), 200, np.uint8)
    truth, found = Boxes([], []), Boxes([[100, 5, 500, 50], [1, 2, 3, 4]], [2, 7], [0.9, 0.1])
    picture = pixels(validation_png([image] * 20, [truth] * 20, [found] * 20, ["a"] * 20, NAMES))
    assert picture.shape == (8 * (24 + CAPTION_PX), 4 * 400, 3)  # 16 images, two columns each
    assert class_color(2) not in colors(picture[CAPTION_PX : CAPTION_PX + 24, :400])
    assert class_color(2) in colors(picture[CAPTION_PX : CAPTION_PX + 24, 400:800])


def test_unequal_numbers_and_no_images_are_refused() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="shorter"):
        validation_png([image], [], [], [], NAMES)
    with pytest.raises(ValueError, match="there are no samples to draw"):
        validation_png([], [], [], [], NAMES)
