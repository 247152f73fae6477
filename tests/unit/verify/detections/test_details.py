"""What an evaluation finds in detail, and two models side by side; small untrained models on four images."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effdet_torch.data.sources import DataSource
from effdet_torch.errors import EvaluationError
from effdet_torch.metrics.coco import evaluate_boxes
from support.coco_samples import (
    annotation,
    annotation_file,
    change_annotations,
    evaluate_coco,
    result,
    write_coco,
    write_model,
)
from verify.detections import details, run
from verify.detections.comparison import compare_models
from verify.detections.details import details_of
from verify.detections.pictures import MAX_SIDE_PX, MIN_SIDE_PX, OUTCOMES
from verify.detections.run import CocoSettings, Evaluation, prepare, read_images
from verify.results.details import Details

SETTINGS = CocoSettings(workers=0, score=0.3, shown=2)
GREEN, RED = OUTCOMES["right"], OUTCOMES["missed"]


def evaluate(model: Path, root: Path, **settings: Any) -> Evaluation:
    evaluation = evaluate_coco(model, root, replace(SETTINGS, **settings))
    assert evaluation is not None
    return evaluation


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


@pytest.fixture
def evaluation(root: Path) -> Evaluation:
    return evaluate(write_model(root.parent / "model.pth", num_classes=2), root)


def with_results(evaluation: Evaluation, results: list[dict[str, Any]]) -> Evaluation:
    """Return an evaluation as if the model had found these."""
    split = evaluation.split
    return replace(evaluation, results=results, boxes=evaluate_boxes(split.dataset, results, split.image_ids))


def drawn(evaluation: Evaluation) -> Evaluation:
    """Return an evaluation whose images are drawn."""
    return replace(evaluation, settings=replace(evaluation.settings, pictures=True))


def perfect(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return what finds every object, by ascending image id: 3, 5, 7, 12."""
    objects = sorted(evaluation.split.objects, key=lambda x: x.image_id)
    return [result(x.image_id, x.category_id, x.bbox, 0.9) for x in objects]


def counts(found: Details) -> list[tuple[int, int, int, int, int]]:
    return [(x.image_id, x.right, x.wrong_class, x.missed, x.false) for x in found.images]


def test_mistakes_are_counted_and_the_worst_image_comes_first(evaluation: Evaluation) -> None:
    three, five, seven, twelve = perfect(evaluation)
    five["category_id"] = 3 - five["category_id"]
    results = [three, five, seven | {"score": 0.1}, twelve, *(twelve | {"score": score} for score in (0.5, 0.4, 0.3))]
    found = details_of(with_results(evaluation, results))
    assert counts(found) == [(3, 1, 0, 0, 0), (5, 0, 1, 0, 0), (7, 0, 0, 1, 0), (12, 1, 0, 0, 3)]
    assert [image.image_id for image in found.worst] == [12, 5]  # the lower id of two with one mistake
    assert [(box.side, box.outcome) for box in found.worst[0].boxes] == [
        ("truth", "right"),
        ("model", "right"),
        *[("model", "false")] * 3,
    ]
    object_, detection = found.worst[1].boxes
    assert (object_.counterpart, detection.counterpart) == (detection.name, object_.name)
    assert (object_.score, detection.score) == (None, 0.9)
    assert sum(map(sum, found.confusion.counts)) == 4 + 3
    assert found.confusion.by_class.keys() == {1, 2}
    assert np.array(list(found.confusion.by_class.values())).sum(axis=0).tolist() == [2, 1, 1, 3]


def test_a_perfect_model_has_no_worst_image(evaluation: Evaluation) -> None:
    found = details_of(drawn(with_results(evaluation, perfect(evaluation))))
    assert found.worst == ()
    assert [each.metrics["AP"] for each in found.classes] == pytest.approx([1.0, 1.0])
    assert len(details_of(drawn(replace(evaluation, settings=replace(SETTINGS, shown=0)))).worst) == 0


def test_names_are_the_data_sets_and_else_the_models(root: Path, tmp_path: Path) -> None:
    change_annotations(root, categories=[{"id": 1, "name": "cat"}, {"id": 2}])
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\nhen\n")
    model = write_model(tmp_path / "model.pth", num_classes=2)
    assert details_of(evaluate(model, root, labels=labels)).confusion.names == ("cat", "hen")
    assert details_of(evaluate(model, root)).confusion.names == ("cat", "class 2")


def test_without_annotations_there_is_nothing_to_judge(evaluation: Evaluation) -> None:
    with pytest.raises(EvaluationError, match="val2017 has no annotations"):
        details_of(replace(evaluation, boxes=None))


# Pictures.


def large(root: Path, size: tuple[int, int], orientation: int = 1) -> None:
    """Replace image 3 by a grey one with an object in its middle, and an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (100, 100, 100)).save(root / "val2017" / "000000000003.jpg", exif=exif)
    width, height = size if orientation == 1 else size[::-1]
    content = json.loads(annotation_file(root).read_text())
    for image in content["images"]:
        if image["id"] == 3:
            image |= {"width": width, "height": height}
    box = (width / 4, height / 4, width / 2, height / 2)
    objects = [annotation(1, 3, 1, box)] + [x for x in content["annotations"] if x["image_id"] != 3]
    change_annotations(root, images=content["images"], annotations=objects)


def near(pixels: Any, color: tuple[int, int, int]) -> Any:
    return (np.abs(np.asarray(pixels, float) - color) < 60).all(axis=-1)


@pytest.mark.parametrize("orientation", [1, 6])
def test_boxes_are_drawn_where_they_are(root: Path, tmp_path: Path, orientation: int) -> None:
    size = (1280, 320)
    large(root, size, orientation)
    first = evaluate(write_model(tmp_path / "model.pth", num_classes=2), root)
    image = first.split.images[0]
    assert image.turned == (orientation == 6)
    others = [x for x in perfect(first) if x["image_id"] != 3]
    found = details_of(drawn(with_results(first, others)))
    (shown,) = found.worst
    truth, model = (Image.open(BytesIO(picture.jpeg)) for picture in shown.pictures)
    expected = (640, 160) if orientation == 1 else (160, 640)
    assert truth.size == model.size == expected
    assert max(expected) == MAX_SIDE_PX
    width, height = expected
    red = np.argwhere(near(truth, RED))
    top, left = red.min(axis=0)
    bottom, right = red.max(axis=0)
    assert (left, right) == (pytest.approx(width / 4, abs=3), pytest.approx(width * 3 / 4, abs=3))
    assert bottom == pytest.approx(height * 3 / 4, abs=3)
    assert top <= height / 4 + 3  # the label may stand above the box
    assert not near(model, RED).any()
    assert not near(model, GREEN).any()
    assert [picture.caption for picture in shown.pictures] == ["truth: 1 missed", "model: nothing"]


def test_an_image_that_is_gone_costs_its_picture_only(root: Path, evaluation: Evaluation) -> None:
    (root / "val2017" / "000000000003.jpg").unlink()
    results = [x for x in perfect(evaluation) if x["image_id"] not in (3, 5)]
    lost, kept = details_of(drawn(with_results(evaluation, results))).worst
    assert (lost.image_id, kept.image_id) == (3, 5)
    (picture,) = lost.pictures
    assert picture.jpeg == b""
    assert "000000000003.jpg" in picture.caption
    assert len(kept.pictures) == 2


def test_pictures_are_drawn_only_if_asked_for(evaluation: Evaluation) -> None:
    for image in details_of(with_results(evaluation, [])).worst:
        assert image.pictures == ()


# Two models.


def test_a_model_does_not_differ_from_itself(evaluation: Evaluation) -> None:
    found = compare_models(evaluation, evaluation, {})
    assert evaluation.results
    assert sum(image.different for image in found.images) == 0
    assert found.shown == ()
    assert found.metrics == evaluation.metrics
    assert found.classes == details_of(evaluation).classes
    assert found.notes == ()


def test_the_images_that_differ_most_are_shown_with_both_models(evaluation: Evaluation) -> None:
    three, five, seven, twelve = perfect(evaluation)
    other = with_results(evaluation, [three, five, seven | {"category_id": 3 - seven["category_id"]}])
    first = with_results(evaluation, [three, five | {"score": 0.2}, seven, twelve | {"score": 0.4}])
    found = compare_models(drawn(first), other, {"path": "other.pth"})
    assert [(x.image_id, x.different, x.mistakes, x.other_mistakes) for x in found.images] == [
        (3, 0, 0, 0),
        (5, 1, 1, 0),
        (7, 2, 0, 1),
        (12, 1, 0, 1),
    ]
    assert [image.image_id for image in found.shown] == [7, 5]
    assert [box.side for box in found.shown[0].boxes] == ["truth", "model", "other model"]
    assert [box.outcome for box in found.shown[0].boxes] == ["right", "right", "wrong class"]
    assert [len(image.pictures) for image in found.shown] == [3, 3]


def test_classes_are_compared_by_name_where_the_models_number_them_otherwise(root: Path, tmp_path: Path) -> None:
    change_annotations(root, categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "hen"}])
    names = {"first": ("cat", "hen"), "second": ("owl", "hen", "cat")}
    evaluations = []
    for name, labels in names.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(labels))
        model = write_model(tmp_path / f"{name}.pth", num_classes=len(labels))
        evaluations.append(evaluate(model, root, labels=tmp_path / f"{name}.txt"))
    first, second = (with_results(x, perfect(x)) for x in evaluations)
    assert {x.category_id for x in second.split.objects} == {2, 3}
    found = compare_models(first, second, {})
    assert [(each.category_id, each.name) for each in found.classes] == [(1, "cat"), (2, "hen")]
    assert sum(image.different for image in found.images) == 0
    assert found.shown == ()
    assert [note.kind for note in found.notes] == ["category matched by name"]
    worse = with_results(second, [x | {"category_id": 5 - x["category_id"]} for x in second.results])
    assert all(image.different == 2 for image in compare_models(first, worse, {}).images)  # negative control


def test_the_data_set_of_the_details_is_the_one_of_the_metrics(evaluation: Evaluation) -> None:
    found = details_of(evaluation)
    means = np.mean([each.metrics["AP"] for each in found.classes if each.objects])
    assert evaluation.metrics["AP"] == pytest.approx(means)
    assert sum(each.objects for each in found.classes) == len(evaluation.split.objects)
    assert sum(each.detections for each in found.classes) == len(evaluation.results)


def test_close_boxes_are_paired_within_their_class(evaluation: Evaluation) -> None:
    box, near = (2, 3, 20, 15), (2, 3, 20, 14)
    first = [result(3, 1, box, 0.9), result(3, 2, near, 0.8), result(5, 1, box, 0.9), result(5, 1, near, 0.8)]
    second = [result(3, 2, near, 0.9), result(3, 1, box, 0.8), result(5, 1, near, 0.9), result(5, 1, box, 0.8)]
    found = compare_models(with_results(evaluation, first), with_results(evaluation, second), {})
    assert [image.different for image in found.images] == [0, 0, 0, 0]


def test_the_other_model_keeps_its_own_names_and_settings(root: Path, tmp_path: Path) -> None:
    change_annotations(root, categories=[{"id": 1, "name": "cat"}, {"id": 2, "name": "hen"}])
    (tmp_path / "labels.txt").write_text("cat\nhen\n")
    settings = replace(SETTINGS, labels=tmp_path / "labels.txt", score=0.0)
    other = write_model(tmp_path / "other.pth", num_classes=2, label_map=((1, "hen"), (2, "cat")), image_size=(96, 64))
    images = read_images(DataSource(coco=root), settings)
    model = write_model(tmp_path / "model.pth", num_classes=2)
    first, second = prepare(model, images, settings), prepare(other, images, settings, own_names=True)
    assert [x.category_id for x in first.split.objects] == [3 - x.category_id for x in second.split.objects]
    evaluations = [run.evaluate(each) for each in (first, second)]
    assert None not in evaluations
    found = compare_models(*evaluations, {"metadata": second.metadata})
    assert found.settings["image_size"] == [96, 64]
    assert found.settings["profile"]["name"] == "official-eval"
    assert {box.side for image in found.shown for box in image.boxes} == {"truth", "model", "other model"}
    for box in (box for image in found.shown for box in image.boxes):
        assert (box.category_id, box.name) in {(1, "cat"), (2, "hen")}  # the ids of the first model
    ignoring = prepare(other, images, settings)  # negative control: the labels in place of its own names
    assert [x.category_id for x in ignoring.split.objects] == [x.category_id for x in first.split.objects]


def test_images_of_equal_names_are_told_apart(evaluation: Evaluation) -> None:
    images = [
        image._replace(path=image.path.parent / folder / "1.jpg")
        for image, folder in zip(evaluation.split.images, "abcd", strict=True)
    ]
    split = replace(evaluation.split, images=tuple(images))
    assert details.file_names(split) == ["a/1.jpg", "b/1.jpg", "c/1.jpg", "d/1.jpg"]
    assert details.file_names(evaluation.split)[0] == "000000000003.jpg"


def test_small_images_are_enlarged(evaluation: Evaluation) -> None:
    (shown, _) = details_of(drawn(with_results(evaluation, []))).worst
    for picture in shown.pictures:
        assert max(Image.open(BytesIO(picture.jpeg)).size) == MIN_SIDE_PX
