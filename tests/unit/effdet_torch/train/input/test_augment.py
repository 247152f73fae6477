"""Names and order of augmentations, and how often they act."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from effdet_torch.config import get_config
from effdet_torch.errors import ConfigError
from effdet_torch.train.input import mosaic as mosaics
from effdet_torch.train.input.augment import AUGMENTATIONS, Draw, augment, ordered, parse_augment
from effdet_torch.train.input.autoaugment import operations
from effdet_torch.train.input.autoaugment.operations import OPERATIONS, Operation
from effdet_torch.train.input.autoaugment.policies import POLICIES, apply_policy
from effdet_torch.train.input.example import Example
from effdet_torch.train.input.grid_mask import grid_mask
from effdet_torch.train.input.mosaic import dividing_point, mosaic
from effdet_torch.train.input.placement import Placement

BACKGROUND, COLOR = 30, 200


def picture(size: tuple[int, int], box: tuple[int, int, int, int], channel: int = 0) -> Example:
    """An image with one object: the box (top, left, bottom, right), filled with a colour."""
    top, left, bottom, right = box
    image = np.full((*size, 3), BACKGROUND, np.uint8)
    image[top:bottom, left:right, channel] = COLOR
    fractions = np.array([[top / size[0], left / size[1], bottom / size[0], right / size[1]]], np.float32)
    return Example(image, fractions, np.array([channel + 1]))


def draw_of(seed: int, another: Callable[[], Example] | None = None) -> Draw:
    def nothing() -> Example:
        raise AssertionError("no other image is needed")

    return Draw(np.random.default_rng(seed), (0.5, 2.0), (96, 128), another or nothing)


def colored_share(image: np.ndarray, box: np.ndarray, channel: int, margin: int = 3) -> float:
    """Return the share of a box's inner pixels, (top, left, bottom, right), that have its colour; 1 without any."""
    top, left = np.ceil(box[:2]).astype(int) + margin
    bottom, right = np.floor(box[2:]).astype(int) - margin
    inner = image[max(0, top) : max(0, bottom), max(0, left) : max(0, right), channel]
    return float((inner > (BACKGROUND + COLOR) / 2).mean()) if inner.size else 1.0


def test_augmentations_run_in_the_order_of_the_table() -> None:
    names = parse_augment("scale, flip,gridmask,autoaugment-v1,mosaic")
    assert names == ("mosaic", "gridmask", "autoaugment-v1", "flip", "scale")
    assert parse_augment("flip,flip") == ("flip",)
    assert parse_augment("none") == parse_augment("") == ()


def test_unknown_and_unofficial_names_are_refused_with_a_list() -> None:
    with pytest.raises(ConfigError, match="'flop' is unknown; expected none, or a list of: mosaic, gridmask") as error:
        parse_augment("flip,flop")
    assert all(name in str(error.value) for name in AUGMENTATIONS)
    with pytest.raises(ConfigError, match="'mosaic' is not a part of the official recipe") as error:
        parse_augment("mosaic", official=True)
    assert parse_augment("flip,scale", official=True) == ("flip", "scale")
    with pytest.raises(ConfigError, match="'jitter' is unknown"):
        ordered(("jitter",))


def test_flip_and_scale_choose_the_view() -> None:
    example = picture((40, 50), (5, 5, 20, 30))
    views = [augment(example, ("flip", "scale"), draw_of(seed)).view for seed in range(400)]
    assert 0.4 < np.mean([view.flip for view in views]) < 0.6
    scales = np.array([view.scale for view in views])
    assert scales.min() >= 0.5
    assert scales.max() < 2.0
    assert abs(scales.mean() - 1.25) < 0.1
    assert np.array([view.offsets for view in views]).std() > 0.2
    assert augment(example, (), draw_of(0)) is example


def recorded(monkeypatch: pytest.MonkeyPatch, policy: str, draws: int) -> tuple[Counter[str], Counter[float]]:
    """Return how often each operation ran, and with which sign, in a number of draws on an image with 3 boxes."""
    ran: Counter[str] = Counter()
    signs: Counter[float] = Counter()

    def recorder(name: str, operation: Operation) -> Operation:
        def run(image: np.ndarray, boxes: np.ndarray, argument: float, random: object) -> operations.Picture:
            ran[name] += 1
            if operation.is_signed:
                signs[np.sign(argument)] += 1
            return image, boxes

        return operation._replace(run=run)

    for name, operation in list(OPERATIONS.items()):
        monkeypatch.setitem(OPERATIONS, name, recorder(name, operation))  # type: ignore[arg-type]
    random, boxes = np.random.default_rng(1), np.array([[0.1, 0.1, 0.5, 0.5]] * 3, np.float32)
    for _ in range(draws):
        apply_policy(POLICIES[policy], (np.zeros((8, 8, 3), np.uint8), boxes), random)
    return ran, signs


def expected_runs(policy: str, draws: int) -> Counter[str]:
    expected: Counter[str] = Counter()
    for row in POLICIES[policy]:
        for name, probability, _ in row:
            expected[name] += draws / len(POLICIES[policy]) * probability  # type: ignore[assignment]
    return expected


@pytest.mark.parametrize("policy", list(POLICIES))
def test_operations_run_as_often_as_their_probability_says(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = 4000
    ran, signs = recorded(monkeypatch, policy, draws)
    for name, expected in expected_runs(policy, draws).items():
        # An operation in boxes has a third of the probability, and three boxes here.
        assert ran[name] == pytest.approx(expected, abs=5 * np.sqrt(expected + 1)), name
    assert set(ran) <= set(expected_runs(policy, draws))
    assert set(signs) - {0.0} == {-1.0, 1.0}
    assert 0.9 < signs[1.0] / signs[-1.0] < 1.1


def test_counting_notices_another_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: boxes with the full probability."""
    monkeypatch.setattr(operations, "IN_BOX_DIVISOR", 1)
    ran, _ = recorded(monkeypatch, "autoaugment-v0", 2000)
    expected = expected_runs("autoaugment-v0", 2000)["TranslateY_Only_BBoxes"]
    assert ran["TranslateY_Only_BBoxes"] > expected + 5 * np.sqrt(expected + 1)


EDGE = 3  # pixels: official corners are truncated, and turned about another centre than the pixels
MOVES = [name for name, operation in OPERATIONS.items() if operation.is_signed and not operation.in_boxes]


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("level", [2, 5, 10])
def test_a_moved_box_stays_around_its_object(name: str, level: int) -> None:
    example = picture((700, 800), (300, 340, 400, 460))
    for seed in range(4):
        random = np.random.default_rng(seed)
        image, boxes = OPERATIONS[name].apply((example.image, example.boxes), 1.0, level, random)
        y, x = np.nonzero(image[:, :, 0] == COLOR)
        visible = np.array([y.min(), x.min(), y.max() + 1, x.max() + 1])
        found = boxes[0] * [700, 800, 700, 800]
        assert (found[:2] <= visible[:2] + EDGE).all(), (seed, found, visible)
        assert (found[2:] >= visible[2:] - EDGE).all(), (seed, found, visible)
        assert (found[2:] - found[:2] <= visible[2:] - visible[:2] + 12).all(), (seed, found, visible)


@pytest.mark.parametrize("policy", list(POLICIES))
def test_policies_take_images_of_any_size_and_without_boxes(policy: str) -> None:
    for size in ((1, 1), (2, 5), (40, 30)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        for boxes in (np.zeros((0, 4), np.float32), np.array([[0, 0, 1, 1], [1, 1, 1, 1]], np.float32)):
            for seed in range(30):
                found, moved = apply_policy(POLICIES[policy], (image, boxes), np.random.default_rng(seed))
                assert found.shape == image.shape
                assert found.dtype == np.uint8
                assert moved.shape == boxes.shape
                assert moved.dtype == np.float32
                assert ((moved >= 0) & (moved <= 1)).all()


def test_grid_mask_fires_and_blackens_as_often_as_the_official_one() -> None:
    image = np.full((256, 256, 3), 255, np.uint8)
    black = [float((grid_mask(image, np.random.default_rng(seed)) == 0).mean()) for seed in range(300)]
    fired = [share for share in black if share > 0]
    assert 0.62 < len(fired) / len(black) < 0.76  # official: 0.69
    assert 0.15 < np.mean(fired) < 0.19  # official: 0.17
    assert grid_mask(np.full((1, 3, 3), 9, np.uint8), np.random.default_rng(0)).shape == (1, 3, 3)


@pytest.mark.parametrize("seed", range(20))
def test_a_box_of_a_mosaic_stays_around_its_object(seed: int) -> None:
    random, parts = np.random.default_rng(seed), []
    for number in range(4):
        height, width = (int(side) for side in random.integers(60, 300, 2))
        top, left = int(random.integers(0, height // 2)), int(random.integers(0, width // 2))
        box = (top, left, int(random.integers(top + 20, height)), int(random.integers(left + 20, width)))
        parts.append(picture((height, width), box, number % 3))
    size = (200, 300)
    found = mosaic(parts, size, dividing_point(size, random))
    assert found.labels.tolist() == [1, 2, 3, 1]
    for box, label in zip(found.boxes * np.tile(size, 2), found.labels, strict=True):
        assert colored_share(found.image, box, label - 1) == 1
    # Negative control: boxes of the parts in another order.
    shares = [colored_share(found.image, box, 1) for box in found.boxes * np.tile(size, 2)]
    assert min(shares) < 1


def test_mosaic_takes_other_images_for_its_share() -> None:
    example, other = picture((40, 50), (5, 5, 20, 30)), picture((40, 50), (5, 5, 20, 30), 1)
    found = [augment(example, ("mosaic",), draw_of(seed, lambda: other)) for seed in range(200)]
    mixed = [item for item in found if item is not example]
    assert abs(len(mixed) / 200 - mosaics.SHARE) < 0.1
    assert all(sorted(item.labels.tolist()) == [1, 2, 2, 2] for item in mixed)
    assert len({tuple(item.labels.tolist()) for item in mixed}) == 4
    assert all(item.image.shape == (96, 128, 3) for item in mixed)


@pytest.mark.parametrize("seed", range(20))
def test_a_box_on_the_canvas_stays_around_its_object(seed: int) -> None:
    example = augment(picture((90, 130), (20, 30, 70, 100)), ("flip", "scale"), draw_of(seed))
    placement = Placement.of((90, 130), example.view, (96, 128))
    config = get_config("d0", normalization="advprop", image_size=(96, 128))
    canvas = np.zeros((3, 96, 128), np.float32)
    placement.draw(example.image, canvas, np.zeros((3, 1, 1), np.float32), config)
    boxes, _ = placement.boxes(example.boxes)
    for box in boxes[:, [1, 0, 3, 2]]:
        assert colored_share(canvas.transpose(1, 2, 0), box, 0) == 1
        assert colored_share(canvas.transpose(1, 2, 0), box, 1) < 1  # negative control


def test_one_policy_at_a_time() -> None:
    with pytest.raises(ConfigError, match="autoaugment-v1 and randaugment exclude each other; choose one policy"):
        parse_augment("autoaugment-v1,flip,randaugment")
    assert parse_augment("flip,autoaugment-v1") == ("autoaugment-v1", "flip")
