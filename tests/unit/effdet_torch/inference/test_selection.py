"""Thresholds, limits and classes of a call: what they change, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from effdet_torch import Predictor
from effdet_torch.errors import ConfigError, UsageError
from effdet_torch.geometry.numpy_nms import non_max_suppression
from effdet_torch.inference.labels import COCO_NAMES
from effdet_torch.inference.results.image_detections import ImageDetections
from effdet_torch.inference.selection import Selection, category_ids_of, listed_classes
from effdet_torch.network.model import EfficientDet
from effdet_torch.processing.gpu import GpuProcessing
from effdet_torch.processing.numpy_postprocess import Detections
from effdet_torch.processing.profiles import PROFILES, Profile
from support.coco_samples import small_model

NAMES = {1: "cat", 2: "dog", 3: "bird"}
detector = partial(Predictor, score_threshold=0, label_map=NAMES)
PER_CLASS, AGNOSTIC = "official-eval", "serving"


@pytest.fixture(scope="module")
def model() -> EfficientDet:
    return small_model(num_classes=3, image_size=(128, 128))


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def columns(found: ImageDetections, places: Any = slice(None)) -> list[list[Any]]:
    return [array[places].tolist() for array in (found.boxes_xyxy, found.scores, found.category_ids)]


# Classes


SELECTED = (PER_CLASS, AGNOSTIC, "official-eval-hard", "serving-hard")
FURTHER = "object-detection-api"  # in torch it looks at four times the limit only, see ROOM


@pytest.mark.parametrize(
    ("profile", "is_torch"), [*((name, is_torch) for name in SELECTED for is_torch in (False, True)), (FURTHER, False)]
)
@pytest.mark.parametrize("most", [40, 7])
def test_classes_leave_out_the_others_and_change_nothing_else(
    model: EfficientDet, image: NDArray[np.uint8], profile: str, most: int, is_torch: bool
) -> None:
    """The first of the class among all that there are, though the first 7 or 40 of all hold fewer."""
    settings = replace(PROFILES[profile], max_detections=2000)
    everything = detector(model, profile=settings)
    some = detector(model, profile=profile, classes=["Dog"], max_detections=most)
    if is_torch:
        for one in (everything, some):
            one._processing = GpuProcessing(model.config, "cpu")
    whole = everything(image)[0]
    wanted = np.flatnonzero(whole.category_ids == 2)[:most]
    assert len(wanted) == most
    (found,) = some(image)
    assert columns(found) == columns(whole, wanted)
    assert found.names == ["dog"] * most
    assert columns(whole, slice(most)) != columns(found)  # negative control


@pytest.mark.parametrize(("profile", "scores"), [("serving-hard", []), ("official-eval-hard", [0.6])])
def test_a_class_that_nobody_asked_for_still_suppresses(profile: str, scores: list[float]) -> None:
    """A cat of .9 that is also, at another anchor, a dog of .6: where all classes suppress each other it is no dog."""
    boxes, classes = np.float32([[0, 0, 10, 10], [0, 0, 10, 9]]), np.array([1, 2])

    def make(profile: Profile) -> list[Detections]:
        given = classes if profile.per_class else None
        indices, kept = non_max_suppression(boxes, np.float32([0.9, 0.6]), given, profile.max_detections)
        return [Detections(boxes[indices], kept, classes[indices])]

    (found,) = Selection(0.3, category_ids=(2,)).detections(make, PROFILES[profile], is_fixed=False)
    assert found.scores.tolist() == pytest.approx(scores)


def test_more_is_made_only_until_it_suffices() -> None:
    made: list[Profile] = []

    def make(profile: Profile) -> list[Detections]:
        made.append(profile)
        count = min(profile.max_detections, 1000)
        classes = np.where(np.arange(count) % 10 == 9, 2, 1)
        return [Detections(np.zeros((count, 4), np.float32), np.linspace(1, 0.5, count, dtype=np.float32), classes)]

    selection = Selection(0.4, category_ids=(2,))
    (found,) = selection.detections(make, PROFILES["official-eval"], is_fixed=False)
    assert len(found.scores) == 100
    assert [profile.max_detections for profile in made] == [100, 400, 1600]
    assert all(0.399 < profile.score_threshold < 0.4 for profile in made)
    made.clear()
    (found,) = selection.detections(make, PROFILES["official-eval"], is_fixed=True)
    assert (len(found.scores), len(made)) == (10, 1)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("person", (1,)),
        (["cat", "Person"], (1, 17)),
        ([17, "1"], (1, 17)),
        (np.int64(3), (3,)),
        (["wine glass", "skis"], (35, 46)),
        (26, (26,)),  # of COCO's 90 classes, 10 have no name
    ],
)
def test_names_and_ids(classes: Any, expected: tuple[int, ...]) -> None:
    assert category_ids_of(classes, COCO_NAMES, 90) == expected


def test_a_name_comes_before_a_number() -> None:
    digits = {number + 1: str(number) for number in range(10)}
    assert category_ids_of(["3"], digits, 10) == (4,)
    assert category_ids_of([3], digits, 10) == (3,)
    assert category_ids_of(["10"], digits, 10) == (10,)
    assert category_ids_of("ok", {1: "ok", 2: "OK"}, 2) == (1, 2)


@pytest.mark.parametrize(
    ("classes", "names", "message"),
    [
        (["dgo"], COCO_NAMES, r"unknown class 'dgo'; did you mean dog\? category ids are 1 to 90"),
        (
            ["cat", "unicorns"],
            NAMES,
            "unknown class 'unicorns'; the model has cat, dog, bird; category ids are 1 to 90",
        ),
        (["cat"], {}, "unknown class 'cat'; the model has no class names; category ids are 1 to 90, and --labels adds"),
        ([0], NAMES, "unknown class '0'"),
        ("91", NAMES, "unknown class '91'"),
        ([], NAMES, "classes is empty"),
        (["cat", " "], NAMES, "class 2 of 2 is empty; name it, or remove its comma"),
        (["bolt"], {1: "bolt, large"}, "the model has bolt, large; .* a name with a comma needs quotation marks"),
    ],
)
def test_unknown_classes(classes: Any, names: dict[int, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        category_ids_of(classes, names, 90)
    with pytest.raises(UsageError, match=r"the class 1\.5 .*a name or a category id"):
        category_ids_of([1.5], names, 90)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("person,cat", ["person", "cat"]),
        ('person, "bolt, large",2', ["person", "bolt, large", "2"]),
        ('12" pipe,"a ""b"", c"', ['12" pipe', 'a "b", c']),
        ("toilet,", ["toilet", ""]),
        ("", []),
    ],
)
def test_a_list_of_classes(text: str, expected: list[str]) -> None:
    assert listed_classes(text) == expected


@pytest.mark.parametrize("text", ['"cat', '"cat" ,dog', "a\nb", '"cat"s'])
def test_a_list_of_classes_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the list of classes .*; quote a name as in CSV"):
        listed_classes(text)


# Thresholds and limits


def test_the_iou_threshold_and_the_limit_replace_the_profiles(model: EfficientDet, image: NDArray[np.uint8]) -> None:
    for iou_threshold in (0.3, 0.7):
        wanted = detector(model, profile=replace(PROFILES["serving-hard"], iou_threshold=iou_threshold))(image)[0]
        found = detector(model, profile="serving-hard", iou_threshold=iou_threshold)(image)[0]
        assert columns(found) == columns(wanted)
        assert columns(found) != columns(detector(model, profile="serving-hard")(image)[0])  # negative control
    for most in (1, 7, 200):
        predictor = detector(model, max_detections=most)
        assert (len(predictor(image)[0]), predictor.profile.max_detections) == (most, most)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"iou_threshold": 0.5},
            "the profile serving lowers the scores of overlapping boxes .* and has no IoU threshold",
        ),
        ({"iou_threshold": 0.5, "profile": "official-eval"}, "--profile serving-hard"),
        ({"iou_threshold": 50, "profile": "serving-hard"}, "iou_threshold is 50; expected 0 to 1"),
        ({"max_detections": 0}, "max_detections is 0; expected at least 1"),
        ({"max_detections": 2.5}, "max_detections"),
        ({"iou_threshold": "0.5"}, "iou_threshold"),
        ({"classes": "cow"}, "unknown class 'cow'"),
    ],
)
def test_what_would_have_no_effect_is_refused(model: EfficientDet, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        detector(model, **settings)


def test_a_file_with_suppression_inside() -> None:
    fixed, selection = PROFILES["serving-hard"], Selection(0)
    for changed, message in (
        ({"iou_threshold": 0.4}, r"the IoU threshold \(--iou\) is fixed in the file"),
        ({"max_detections": 101}, "makes at most 100 detections per image itself"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(selection, **changed).applied_to(fixed, is_fixed=True)  # type: ignore[arg-type]
    assert replace(selection, max_detections=5).applied_to(fixed, is_fixed=True).max_detections == 5
