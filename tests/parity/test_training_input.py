"""Flips, scales and crops against the official input pipeline, image by image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.inference.images import read_image
from effdet_torch.processing.numpy_preprocess import to_network_range
from effdet_torch.processing.preprocess import preprocess
from effdet_torch.train.input.example import View
from effdet_torch.train.input.placement import Placement, Size

CONFIGS: dict[str, tuple[Size, Size | None]] = {
    "d0_256": ((256, 256), None),
    "d0_384x640": ((384, 640), None),
    "d0_256_target_320": ((256, 256), (320, 320)),
}
PIXEL_ERROR, BOX_ERROR = 1e-5, 1e-4
CASES = 40
MEAN = np.zeros((3, 1, 1), np.float32)


@pytest.fixture(scope="module")
def official(shared: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    folder = shared / "reference" / "training"
    if not (folder / "pipeline.npz").is_file():
        pytest.skip("no official training input beside the project (../shared/reference/training)")
    with np.load(folder / "pipeline.npz", allow_pickle=False) as arrays:
        return json.loads((folder / "pipeline.json").read_text()), dict(arrays)


def photograph(shared: Path, image: str) -> np.ndarray:
    return read_image(next((shared / "coco50" / "val2017").glob(f"*{image}.jpg")))


def errors(shared: Path, official: Any, case: str, view: View) -> tuple[float, float]:
    """Return the largest errors of the pixels and of the boxes; infinite where other boxes are kept."""
    name, image, _ = case.split("|")
    (output, target), (_, arrays) = CONFIGS[name], official
    config = get_config("d0", image_size=output)
    pixels = photograph(shared, image)
    placement = Placement.of(pixels.shape[:2], view, output, target)
    canvas = np.full((3, *output), np.nan, np.float32)
    placement.draw(pixels, canvas, MEAN, config)
    found = canvas.transpose(1, 2, 0).reshape(-1)[arrays[f"{case}|index"]]
    boxes, kept = placement.boxes(arrays[f"input|{image}|boxes_yxyx_normalised"])
    expected = arrays[f"{case}|boxes_yxyx_px"][:, [1, 0, 3, 2]]
    labels = arrays[f"input|{image}|classes"][kept]
    same = np.array_equal(labels, arrays[f"{case}|classes"])
    return np.abs(found - arrays[f"{case}|value"]).max(), np.abs(boxes - expected).max(initial=0) if same else np.inf


def view_of(row: dict[str, Any]) -> View:
    return View(row["flip"], row["scale_factor"], (row["unit_offset_y"], row["unit_offset_x"]))


def test_every_scripted_case_is_the_official_one(shared: Path, official: Any) -> None:
    rows = {case: row for case, row in official[0].items() if not case.startswith("check")}
    assert len(rows) == CASES
    for case, row in rows.items():
        placement = Placement.of(
            photograph(shared, case.split("|")[1]).shape[:2], view_of(row), *CONFIGS[case.split("|")[0]]
        )
        assert placement.scaled == (row["scaled_height"], row["scaled_width"]), case
        assert placement.offset == (row["offset_y"], row["offset_x"]), case
        pixel, box = errors(shared, official, case, view_of(row))
        assert pixel <= PIXEL_ERROR, case
        assert box <= BOX_ERROR, case


@pytest.mark.parametrize(
    "change",
    [
        lambda view: view._replace(flip=not view.flip),
        lambda view: view._replace(scale=view.scale * 1.01),
        lambda view: view._replace(offsets=(view.offsets[0], view.offsets[1] + 0.01)),
    ],
    ids=["flip", "scale", "offset"],
)
def test_another_view_is_not_the_official_one(shared: Path, official: Any, change: Any) -> None:
    """Negative control: a view that differs slightly breaks both bounds."""
    case = "d0_256|37777|large_flip"
    pixel, box = errors(shared, official, case, change(view_of(official[0][case])))
    assert pixel > PIXEL_ERROR
    assert box > BOX_ERROR


@pytest.mark.parametrize(
    "config", [get_config("lite0"), get_config("d0", normalization="advprop"), get_config("d0")], ids=lambda c: c.name
)
def test_a_view_without_change_is_the_input_of_an_evaluation(shared: Path, config: EfficientDetConfig) -> None:
    image = photograph(shared, "37777")
    canvas = np.full((3, *config.image_size), np.nan, np.float32)
    Placement.of(image.shape[:2], View(), config.image_size).draw(image, canvas, MEAN, config)
    expected, _ = preprocess([image], config, "cpu")
    np.testing.assert_array_equal(to_network_range(canvas, config), expected[0].numpy())
    flipped = np.zeros_like(canvas)
    Placement.of(image.shape[:2], View(flip=True), config.image_size).draw(image, flipped, MEAN, config)
    mirrored, _ = preprocess([image[:, ::-1].copy()], config, "cpu")
    np.testing.assert_array_equal(to_network_range(flipped, config), mirrored[0].numpy())
    assert not np.array_equal(flipped, canvas)
