"""Data sets as people have them, evaluated with the command: the right AP and a note, or a refusal before any image.

The truth is what the model itself finds best, so AP is 100 if nothing is wrong.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

import cli
from effdet_torch.errors import UsageError
from effdet_torch.inference.predict import Predictor
from support.coco_samples import annotation_file, evaluate_coco, write_coco, write_model
from verify.detections.run import CocoSettings

Content = dict[str, Any]
SETTINGS = CocoSettings(workers=0)
NAMES = ("cat", "dog", "hair drier")


@pytest.fixture(scope="module", autouse=True)
def boxes_outside() -> Iterator[None]:
    """Boxes of an untrained model lie outside of the images, which is not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("effdet_torch.data.plausible.MARGIN", 1e9)
        patch.setattr("effdet_torch.data.plausible._miss", lambda boxes, _: boxes[:, 0] != boxes[:, 0])
        yield


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without names of classes and a folder coco/ in which it finds everything."""
    root = tmp_path_factory.mktemp("sample")
    model, coco = write_model(root / "model.pth", num_classes=3), write_coco(root / "coco")
    evaluation = evaluate_coco(model, coco, SETTINGS)
    assert evaluation is not None
    best = sorted(evaluation.results, key=lambda x: -x["score"])[:40]
    content = json.loads(annotation_file(coco).read_text())
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)]
    content["annotations"] = [
        {"id": number, "iscrowd": 0, "segmentation": [], "area": x["bbox"][2] * x["bbox"][3]}
        | {key: x[key] for key in ("image_id", "category_id", "bbox")}
        for number, x in enumerate(best, start=1)
    ]
    assert {x["category_id"] for x in best} == {1, 2, 3}
    annotation_file(coco).write_text(json.dumps(content))
    (root / "labels.txt").write_text("\n".join(NAMES))
    return root


def changed(sample: Path, folder: Path, change: Callable[[Content, Path], Any]) -> Path:
    """Copy the sample, change the annotations or the images, and return the copy."""
    root = Path(shutil.copytree(sample / "coco", folder / "coco"))
    content = json.loads(annotation_file(root).read_text())
    change(content, root / "val2017")
    annotation_file(root).write_text(json.dumps(content))
    return root


def evaluate(sample: Path, report: Path, *words: object) -> tuple[dict[str, Any], str]:
    """Return the numbers and notes of the JSON report, {} if there is none, and what was printed to stderr."""
    options = ("--workers", 0, "--report-dir", report)
    done = CliRunner().invoke(cli.verify, [str(word) for word in (sample / "model.pth", *words, *options)])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    if done.exit_code != 0:
        assert (done.exit_code, done.stdout) == (1, "")
        return {}, " ".join(done.stderr.split())
    assert "Data set" in done.stdout or "notes" not in done.stdout
    return json.loads((report / "report.json").read_text())["detection"], done.stderr


def each(part: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Content, Path], None]:
    """Change every entry of a part of the annotations."""
    return lambda content, _: [change(entry) for entry in content[part]] and None


def first(part: str, **values: Any) -> Callable[[Content, Path], None]:
    """Set values of the first entry of a part."""
    return lambda content, _: content[part][0].update(values)


def without(key: str, part: str = "annotations") -> Callable[[Content, Path], None]:
    return each(part, lambda entry: entry.pop(key))


def image_ids(change: Callable[[int], Any]) -> Callable[[Content, Path], None]:
    def apply(content: Content, _: Path) -> None:
        for entry in content["images"]:
            entry["id"] = change(entry["id"])
        for entry in content["annotations"]:
            entry["image_id"] = change(entry["image_id"])

    return apply


def category_ids(change: Callable[[int], Any]) -> Callable[[Content, Path], None]:
    def apply(content: Content, _: Path) -> None:
        for entry in content["categories"]:
            entry["id"] = change(entry["id"])
        for entry in content["annotations"]:
            entry["category_id"] = change(entry["category_id"])

    return apply


def moved_into_folders(content: Content, folder: Path) -> None:
    for number, entry in enumerate(content["images"]):
        (folder / f"part{number}").mkdir()
        (folder / entry["file_name"]).rename(folder / f"part{number}" / entry["file_name"])
        entry["file_name"] = f"part{number}\\{entry['file_name']}"


def of_a_phone(content: Content, folder: Path) -> None:
    """Store every picture on its side, with an EXIF orientation that turns it back."""
    exif = Image.Exif()
    exif[0x112] = 6
    for entry in content["images"]:
        path = folder / entry["file_name"]
        picture = Image.open(path).convert("RGB").transpose(Image.Transpose.ROTATE_90)
        picture.save(path.with_suffix(".png"), exif=exif)
        entry["file_name"] = f"{path.stem}.png"


def exported_twice(content: Content, _: Path) -> None:
    """Everything twice, the annotations with new ids."""
    content["images"] *= 2
    content["categories"] *= 2
    content["annotations"] += [x | {"id": x["id"] + 1000} for x in content["annotations"]]


REPAIRED: dict[str, Callable[[Content, Path], Any]] = {
    "area missing": without("area"),
    "area as text": each("annotations", lambda x: x.update(area=str(x["area"]))),
    "iscrowd missing": each("annotations", lambda x: x.update(iscrowd=None)),
    "object ignored": first("annotations", ignore=1),
    "iscrowd as text": first("annotations", iscrowd="0"),
    "segmentation missing": without("segmentation"),
    "annotation id": without("id"),
    "reference as text": each("annotations", lambda x: x.update(category_id=str(x["category_id"]))),
    "box as text": each("annotations", lambda x: x.update(bbox=[repr(side) for side in x["bbox"]])),
    "image id as text": image_ids(str),
    "image id is a name": image_ids(lambda number: f"img_{number}"),
    "image listed twice": lambda content, _: content["images"].append(dict(content["images"][0])),
    "image size missing": each("images", lambda x: x.update(width=None)),
    "image size as text": each("images", lambda x: x.update(width=str(x["width"]))),
    "file_name nested": each("images", lambda x: x.update(file_name=f"/home/me/data/{x['file_name']}")),
    "file_name with other slashes": moved_into_folders,
    "category id as text": category_ids(str),
    "category listed twice": lambda content, _: content["categories"].append(content["categories"][1]),
    "category unused": lambda content, _: content["categories"].insert(0, {"id": 0, "name": "project"}),
    "annotation listed twice": lambda content, _: content["annotations"].append(content["annotations"][3]),
    "image listed twice, with its objects": exported_twice,
    "box empty": lambda content, _: content["annotations"].append(content["annotations"][0] | {"bbox": [1, 2, 0, 5]}),
    "photograph turned": of_a_phone,
}


def test_the_sample_is_found(sample: Path, tmp_path: Path) -> None:
    detection, _ = evaluate(sample, tmp_path, "--coco", sample / "coco")
    assert detection["metrics"]["AP"] == pytest.approx(1)
    assert [note["kind"] for note in detection["notes"]] == ["category matched by id"]


@pytest.mark.parametrize("kind", REPAIRED)
def test_repaired_or_dropped_with_a_note(sample: Path, tmp_path: Path, kind: str) -> None:
    root = changed(sample, tmp_path, REPAIRED[kind])
    detection, problem = evaluate(sample, tmp_path / "report", "--coco", root)
    assert detection != {}, problem
    assert detection["metrics"]["AP"] == pytest.approx(1)
    kind = kind.partition(",")[0]
    assert kind in [note["kind"] for note in detection["notes"]]
    assert kind in (tmp_path / "report" / "junit.xml").read_text()
    assert "Data set" in (tmp_path / "report" / "summary.md").read_text()


@pytest.mark.parametrize("ids", [0, 7, "a", "12", 2**60, -1])
def test_ids_of_annotations_are_of_no_use(sample: Path, tmp_path: Path, ids: Any) -> None:
    """pycocotools takes 0 for "not matched"."""
    root = changed(sample, tmp_path, each("annotations", lambda x: x.update(id=ids)))
    detection, _ = evaluate(sample, tmp_path / "report", "--coco", root)
    assert detection["metrics"]["AP"] == pytest.approx(1)


def with_row(part: str, row: Any) -> Callable[[Content, Path], Any]:
    return lambda content, _: content[part].append(row)


REFUSED: dict[str, tuple[Callable[[Content, Path], Any], str]] = {
    "not finite": (first("annotations", bbox=[1, 2, float("nan"), 4]), r"annotation 1: \[1, 2, nan, 4\]"),
    "text that is not finite": (
        first("annotations", bbox=[1, 2, "inf", 4]),
        r"not four finite numbers \(1\): annotation 1",
    ),
    "three numbers": (
        first("annotations", bbox=[1, 2, 3]),
        r"annotations whose bbox is not four finite numbers \(1\): annotation 1",
    ),
    "no box": (without("bbox"), r"annotations without a bbox \(40\): annotation 1, annotation 2"),
    "empty list": (first("annotations", bbox=[]), r"annotations without a bbox \(1\): annotation 1"),
    "no id, no box": (lambda c, _: c["annotations"][2].update(id=None, bbox=None), "annotation number 3"),
    "crowd of two": (first("annotations", iscrowd=2), r"iscrowd is not 0 or 1 \(1\): annotation 1: 2"),
    "text row": (with_row("annotations", "x"), r"annotations that are not a JSON object \(1\): number 41"),
    "unknown image": (first("annotations", image_id=99), r"annotation 1 \(image_id 99\); pass the annotations of"),
    "unknown category": (first("annotations", category_id=9), r"annotation 1 \(category_id 9\)"),
    "category true": (first("annotations", category_id=True), r"category_id True"),
    "nothing": (lambda content, _: content["annotations"].clear(), r"not one object to find in the images \(4\)"),
    "crowds only": (each("annotations", lambda x: x.update(iscrowd=1)), "not one object to find"),
    "image without id": (without("id", "images"), r"images without a usable id \(4\): 0000"),
    "image without file": (without("file_name", "images"), r"images without a file_name \(4\): id 7"),
    "two files": (
        lambda c, _: c["images"].append(c["images"][0] | {"file_name": "x.jpg"}),
        r"image ids that belong to different files \(1\): 7",
    ),
    "images are text": (with_row("images", "x"), r"images that are not a JSON object \(1\): number 5"),
    "missing file": (
        lambda c, folder: (folder / c["images"][0]["file_name"]).unlink(),
        r"image files are missing \(1\): 000000000007.jpg; download",
    ),
    "damaged file": (
        lambda c, folder: (folder / c["images"][1]["file_name"]).write_bytes(b"no image"),
        r"image files cannot be opened \(1\): 000000000003.jpg is not an image",
    ),
    "scaled images": (
        lambda c, folder: [Image.open(x).resize((31, 17)).save(x) for x in sorted(folder.iterdir())],
        r"images have another width and height .* \(4\): 000000000003.jpg is 31 x 17, annotated as 40 x 64",
    ),
    "category twice": (with_row("categories", {"id": 1, "name": "horse"}), r"different names \(1\): 1 \(cat, horse\)"),
    "category without id": (
        with_row("categories", {"name": "horse"}),
        r"categories without a usable id \(1\): number 4",
    ),
    "from 0": (
        category_ids(lambda number: number - 1),
        "the ids 0 are not among .*1 to 3.* must be 1 higher.*--labels",
    ),
    "others": (category_ids(lambda number: number + 1), "the ids 4 are not among the model's 1 to 3"),
    "one file of two folders": (
        lambda c, _: [x.update(file_name=f"{n}/000000000003.jpg") for n, x in enumerate(c["images"][:2])],
        r"file names of different folders that are one file here \(1\): 0/000000000003.jpg and 1/000000000003.jpg",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_before_the_first_image(
    sample: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, problem = REFUSED[kind]
    root = changed(sample, tmp_path, change)
    monkeypatch.setattr(Predictor, "stream", lambda *_, **__: pytest.fail("an image was read"))
    detection, message = evaluate(sample, tmp_path / "report", "--coco", root)
    assert detection == {}
    assert re.search(problem, message), message


# Names of classes.


def test_ids_are_matched_by_name(sample: Path, tmp_path: Path) -> None:
    root = changed(sample, tmp_path, category_ids(lambda number: (0, 2, 0, 1)[number]))
    detection, problem = evaluate(sample, tmp_path / "r", "--coco", root, "--labels", sample / "labels.txt")
    assert detection != {}, problem
    assert detection["metrics"]["AP"] == pytest.approx(1)
    (note,) = detection["notes"]
    assert (note["kind"], note["count"]) == ("category matched by name", 3)
    assert note["examples"][0] == "2 cat is the model's 1"


def test_names_that_contradict_are_refused(sample: Path, tmp_path: Path) -> None:
    def rename(content: Content, _: Path) -> None:
        content["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "horse"}]

    detection, problem = evaluate(
        sample, tmp_path / "r", "--coco", changed(sample, tmp_path, rename), "--labels", sample / "labels.txt"
    )
    assert detection == {}
    assert "1 is 'dog' there and 'cat' in the model" in problem
    assert "pass --labels FILE" in problem


# Other layouts.


def as_voc(sample: Path, root: Path) -> Path:
    """Write the sample as PASCAL VOC."""
    content = json.loads(annotation_file(sample / "coco").read_text())
    shutil.copytree(sample / "coco" / "val2017", root / "JPEGImages")
    (root / "Annotations").mkdir()
    for image in content["images"]:
        objects = []
        for x in (x for x in content["annotations"] if x["image_id"] == image["id"]):
            left, top, width, height = x["bbox"]
            sides = {"xmin": left, "ymin": top, "xmax": left + width, "ymax": top + height}
            box = "".join(f"<{side}>{value!r}</{side}>" for side, value in sides.items())
            objects.append(f"<object><name>{NAMES[x['category_id'] - 1]}</name><bndbox>{box}</bndbox></object>")
        size = f"<size><width>{image['width']}</width><height>{image['height']}</height><depth>3</depth></size>"
        text = f"<annotation><filename>other.jpg</filename>{size}{''.join(objects)}</annotation>"
        (root / "Annotations" / image["file_name"].replace("jpg", "xml")).write_text(text)
    return root


def as_yolo(sample: Path, root: Path) -> Path:
    content = json.loads(annotation_file(sample / "coco").read_text())
    shutil.copytree(sample / "coco" / "val2017", root / "images" / "val")
    (root / "labels" / "val").mkdir(parents=True)
    for image in content["images"]:
        lines = []
        for x in (x for x in content["annotations"] if x["image_id"] == image["id"]):
            left, top, width, height = x["bbox"]
            shares = [(left + width / 2) / image["width"], (top + height / 2) / image["height"]]
            shares += [width / image["width"], height / image["height"]]
            lines.append(" ".join([str(x["category_id"] - 1), *map(repr, shares)]))
        (root / "labels" / "val" / image["file_name"].replace("jpg", "txt")).write_text("\n".join(lines))
    (root / "data.yaml").write_text(f"path: .\nval: images/val\nnc: 3\nnames: [{', '.join(NAMES)}]\n")
    return root


def as_roboflow(sample: Path, root: Path) -> Path:
    shutil.copytree(sample / "coco" / "val2017", root / "valid")
    shutil.copy(annotation_file(sample / "coco"), root / "valid" / "_annotations.coco.json")
    return root


@pytest.mark.parametrize("write", [as_voc, as_yolo, as_roboflow])
def test_other_layouts_give_the_same(
    sample: Path, tmp_path: Path, write: Callable[[Path, Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Boxes of an untrained model lie outside of the images, which a share of a side must not.
    monkeypatch.setattr("effdet_torch.data.values.ROUNDING", 1e9)
    (tmp_path / "data").mkdir()
    root = write(sample, tmp_path / "data")
    detection, problem = evaluate(sample, tmp_path / "r", "--data", root, "--labels", sample / "labels.txt")
    assert detection != {}, problem
    assert detection["metrics"]["AP"] == pytest.approx(1)
    assert detection["images"] == 4


def test_an_annotation_file_and_a_folder(sample: Path, tmp_path: Path) -> None:
    coco = sample / "coco"
    words = ("--annotations", annotation_file(coco), "--images", coco / "val2017")
    detection, _ = evaluate(sample, tmp_path, *words)
    assert (detection["split"], detection["metrics"]["AP"]) == ("val2017", pytest.approx(1))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--annotations", "a.json"), "--annotations a.json needs --images DIR"),
        (("--images", "."), "name one data set"),
        (("--coco", ".", "--data", "."), "name one data set"),
        (("--coco", ".", "--annotations", "a.json", "--images", "."), "name one data set"),
        (("--labels", "a.txt"), "--labels needs --coco ROOT, --annotations FILE or --data DIR"),
        (("--data", ".", "--seed", "3"), "--seed cannot be combined with --coco, --annotations or --data"),
    ],
)
def test_combinations_that_mean_nothing(sample: Path, words: tuple[str, ...], message: str) -> None:
    done = CliRunner().invoke(cli.verify, [str(sample / "model.pth"), *words])
    assert done.exit_code == UsageError.exit_code
    assert message in " ".join(done.stderr.split())


def test_names_of_another_number_of_classes(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "four.txt").write_text("a\nb\nc\nd\n")
    words = [sample / "model.pth", "--coco", sample / "coco", "--labels", tmp_path / "four.txt"]
    done = CliRunner().invoke(cli.verify, list(map(str, words)))
    assert done.exit_code == UsageError.exit_code
    assert "4 names for the categories 1 to 4, and the model has 3 classes" in " ".join(done.stderr.split())
