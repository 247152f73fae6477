"""AutoAugment's operations and policies, and mosaic, against the official ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effdet_torch.inference.images import read_image
from effdet_torch.train.input.autoaugment import regions
from effdet_torch.train.input.autoaugment.operations import OPERATIONS, Operation, Picture
from effdet_torch.train.input.autoaugment.policies import POLICIES, RANDOM_OPERATIONS
from effdet_torch.train.input.example import Example
from effdet_torch.train.input.mosaic import mosaic

CALLS = 44
WHOLE = ("Posterize", "Solarize", "Cutout")  # of these names the argument is a whole number
# The official smoothing sums products with 1/13 in floating point and truncates; ours divides whole numbers.
LEVELS = {"Sharpness": 1}
DRAWN = {
    "Cutout|level8|centre_100_200": (100, 200),
    "Cutout|level2|centre_0_0": (0, 0),
    "BBox_Cutout|level4|box_3_centre_120_150": (3, 120, 150),
}


class Scripted(np.random.Generator):
    """Whole numbers that are given; every event happens, and nothing is shuffled."""

    def __init__(self, integers: tuple[int, ...] = ()) -> None:
        super().__init__(np.random.PCG64())
        self._integers = list(integers)

    def integers(self, *_: Any) -> Any:
        return self._integers.pop(0)

    def random(self, *_: Any) -> Any:
        return 0.0

    def permutation(self, x: Any) -> Any:
        return x


@pytest.fixture(scope="module")
def official(shared: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    folder = shared / "reference" / "training"
    if not (folder / "autoaugment.npz").is_file():
        pytest.skip("no official augmentations beside the project (../shared/reference/training)")
    with np.load(folder / "autoaugment.npz", allow_pickle=False) as arrays:
        return json.loads((folder / "autoaugment.json").read_text()), dict(arrays)


@pytest.fixture(scope="module")
def photograph(shared: Path) -> np.ndarray:
    return read_image(next((shared / "coco50" / "val2017").glob("*37777.jpg")))


def run(case: str, row: dict[str, Any], image: np.ndarray, boxes: np.ndarray) -> Picture:
    """Repeat an official call."""
    name, operation = case.split("|")[0], OPERATIONS[case.split("|")[0]]
    argument = float(row["arguments"][0]) if row["arguments"] else 0.0
    argument = int(argument) if name.startswith(WHOLE) else argument
    if not operation.in_boxes:
        return operation.run(image, boxes, argument, Scripted(DRAWN.get(case, ())))
    box = boxes[2:3]

    def change(content: np.ndarray) -> np.ndarray:
        return operation.run(content, box, argument, Scripted())[0]

    return regions.in_boxes(image, box, 1.0, change, Scripted()), box


def difference(case: str, official: Any, image: np.ndarray) -> tuple[int, float]:
    """Return the largest differences of the sampled pixels, in levels, and of the boxes."""
    table, arrays = official
    found, boxes = run(case, table[case], image, arrays["boxes_in"])
    levels = found.reshape(-1)[arrays[f"{case}|index"]].astype(int) - arrays[f"{case}|value"]
    return np.abs(levels).max(), np.abs(boxes - arrays[f"{case}|boxes_yxyx_normalised"]).max()


def test_every_call_is_the_official_one(official: Any, photograph: np.ndarray) -> None:
    cases = [case for case in official[0] if case not in ("policies", "how")]
    assert len(cases) == CALLS
    for case in cases:
        name, before = case.split("|")[0], photograph.copy()
        levels, boxes = difference(case, official, photograph)
        assert levels <= LEVELS.get(name, 0), case
        assert boxes == 0, case
        np.testing.assert_array_equal(photograph, before, err_msg=case)
        if name not in LEVELS:
            found, _ = run(case, official[0][case], photograph, official[1]["boxes_in"])
            assert int(found.sum()) == official[0][case]["pixel_sum"], case
            assert np.count_nonzero(found != photograph) == official[0][case]["changed_values"], case


@pytest.mark.parametrize(
    ("case", "argument"),
    [
        ("Rotate_BBox|level8", 24.5),
        ("TranslateX_BBox|level2", 51.0),
        ("ShearY_BBox|level8|negative", 0.24),
        ("Sharpness|level2", 0.3),
        ("Contrast|level8", 1.56),
    ],
)
def test_another_argument_is_noticed(case: str, argument: float, official: Any, photograph: np.ndarray) -> None:
    """Negative control."""
    table = {case: official[0][case] | {"arguments": [argument]}}
    levels, _ = difference(case, (table, official[1]), photograph)
    assert levels > LEVELS.get(case.split("|")[0], 0)


def test_levels_mean_the_official_arguments(official: Any) -> None:
    checked = 0
    for case, row in official[0].items():
        name, *rest = case.split("|")
        if case in ("policies", "how") or not row["arguments"] or not rest[0].startswith("level"):
            continue
        argument = OPERATIONS[name].argument(int(rest[0][5:]))
        assert (-argument if "negative" in rest else argument) == pytest.approx(row["arguments"][0], rel=1e-12), case
        assert OPERATIONS[name].is_signed == (f"{name}|level2|negative" in official[0]), case
        checked += 1
    assert checked == 37


def test_policies_are_the_official_ones(official: Any) -> None:
    for name in ("v0", "v1", "v2", "v3"):
        expected = [[tuple(step) for step in row] for row in official[0]["policies"][name]]
        assert [list(row) for row in POLICIES[f"autoaugment-{name}"]] == expected
    assert len(RANDOM_OPERATIONS) == len(POLICIES["randaugment"]) == 10
    assert {step for row in POLICIES["randaugment"] for step in row} == {(name, 1.0, 15) for name in RANDOM_OPERATIONS}


@pytest.mark.parametrize("column", [0, 1])
def test_mosaic_moves_boxes_as_the_official_one(shared: Path, column: int) -> None:
    path = shared / "reference" / "training" / "gridmask_mosaic.json"
    if not path.is_file():
        pytest.skip("no official mosaic beside the project (../shared/reference/training)")
    official = json.loads(path.read_text())["mosaic"]
    size, (x1, y1, x2, y2) = np.array([40, 50]), official["box_in"]
    boxes = np.array([[y1 / 40, x1 / 50, y2 / 40, x2 / 50]], np.float32)
    part = Example(np.zeros((*size, 3), np.uint8), boxes, np.array([1]))
    found = mosaic([part] * 4, tuple(official["out_size"]), tuple(official["divide"]))
    assert list(found.image.shape) == official["image_shape"]
    pixels = found.boxes * np.tile(official["out_size"], 2)
    expected = np.array(official["boxes"])[:, 0, [1, 0, 3, 2]]
    np.testing.assert_allclose(pixels[:, column::2], expected[:, column::2], atol=1e-4)
    assert np.abs(pixels - expected[::-1]).max() > 1  # the order of the parts matters


def test_an_operation_in_boxes_changes_nothing_else(photograph: np.ndarray, official: Any) -> None:
    operation = OPERATIONS["Flip_Only_BBoxes"]
    assert isinstance(operation, Operation)
    box = official[1]["boxes_in"][2:3]
    found, _ = operation.apply((photograph, box), 3.0, 10, Scripted())
    y, x = (np.nonzero((found != photograph).any(axis=(2, axis)))[0] for axis in (1, 0))
    size = np.array(photograph.shape[:2])
    assert (np.array([y[0], x[0]]) >= (box[0, :2] * size).astype(int)).all()
    assert (np.array([y[-1], x[-1]]) <= (box[0, 2:] * size).astype(int)).all()
