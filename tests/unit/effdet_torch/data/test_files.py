"""Image files against what the annotations say of them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from PIL import Image

from effdet_torch.data.dataset import DataImage, DataSet
from effdet_torch.data.files import ImageFolder, check_images, read_header
from effdet_torch.data.rules import Findings
from effdet_torch.errors import EvaluationError

WIDE, TALL, SQUARE = (40, 30), (30, 40), (40, 40)


def photograph(path: Path, size: tuple[int, int] = WIDE, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.new("RGB", size).save(path, exif=exif)
    return path


def data_set(
    folder: Path, *images: tuple[tuple[int, int], int, tuple[int, int] | None], upright: bool = False
) -> DataSet:
    """A data set of photographs: (stored size, orientation, annotated size)."""
    entries = [
        DataImage(number, photograph(folder / f"{number}.jpg", stored, orientation), annotated)
        for number, (stored, orientation, annotated) in enumerate(images, start=1)
    ]
    return DataSet("x", folder / "x.json", tuple(entries), {}, (), upright=upright)


def kinds(data: DataSet) -> dict[str, int]:
    return {note.kind: note.count for note in data.notes}


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_headers(tmp_path: Path, orientation: int, suffix: str) -> None:
    header = read_header(photograph(tmp_path / f"a{suffix}", WIDE, orientation))
    assert (header.size, header.upright_size, header.orientation) == (WIDE, TALL, orientation)


def test_a_header_is_enough(tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.jpg", (400, 300))
    path.write_bytes(path.read_bytes()[:-50])
    assert read_header(path).size == (400, 300)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR"])
def test_files_that_are_not_images(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(EvaluationError, match=r"a.jpg is not an image, or is damaged"):
        read_header(tmp_path / "a.jpg")
    with pytest.raises(EvaluationError, match=r"b.jpg No such file"):
        read_header(tmp_path / "b.jpg")


@pytest.mark.parametrize(
    ("images", "turned", "notes"),
    [
        # The annotated size says which frame is meant.
        ([(WIDE, 6, TALL)], [True], {"photograph turned": 1}),
        ([(WIDE, 6, WIDE)], [False], {}),
        ([(WIDE, 6, TALL), (WIDE, 6, WIDE)], [True, False], {"photograph turned": 1}),
        # Where it does not, the others do; without them COCO's rule: as stored.
        ([(SQUARE, 6, SQUARE)], [False], {"photograph as stored": 1}),
        ([(SQUARE, 6, SQUARE), (WIDE, 3, WIDE), (WIDE, 6, TALL)], [True] * 3, {"photograph turned": 3}),
        ([(WIDE, 3, WIDE), (WIDE, 6, WIDE)], [False] * 2, {"photograph as stored": 1}),
        ([(WIDE, 6, None), (WIDE, 1, WIDE)], [False] * 2, {"photograph as stored": 1}),
        ([(WIDE, 6, None), (WIDE, 8, TALL)], [True] * 2, {"photograph turned": 2}),
    ],
)
def test_the_frame_of_photographs(
    tmp_path: Path, images: list[tuple[tuple[int, int], int, tuple[int, int] | None]], turned: list[bool], notes: object
) -> None:
    data = check_images(data_set(tmp_path, *images))
    assert [image.turned for image in data.images] == turned
    assert kinds(data) == notes
    assert None not in [image.size for image in data.images]


def test_the_frame_of_layouts_that_state_no_size(tmp_path: Path) -> None:
    data = check_images(data_set(tmp_path, (WIDE, 3, WIDE), (WIDE, 6, TALL), upright=True))
    assert [image.turned for image in data.images] == [True, True]


def test_one_percent_may_contradict(tmp_path: Path) -> None:
    right: list[tuple[tuple[int, int], int, tuple[int, int] | None]] = [(WIDE, 1, WIDE)] * 99
    data = check_images(data_set(tmp_path, *right, (WIDE, 1, (41, 30))))
    assert kinds(data) == {"image size contradicted": 1}
    assert data.notes[0].examples == ("100.jpg is 40 x 30, annotated as 41 x 30",)
    with pytest.raises(EvaluationError, match=r"images have another width and height .* more than 1 %.* \(2\): 99"):
        check_images(data_set(tmp_path, *right[:98], (WIDE, 1, TALL), (WIDE, 1, (80, 60))))


@pytest.mark.parametrize(
    ("name", "expected", "notes"),
    [
        ("a.jpg", "a.jpg", []),
        ("val/b.jpg", "val/b.jpg", []),
        ("./val//b.jpg", "val/b.jpg", []),
        ("val\\b.jpg", "val/b.jpg", ["file_name with other slashes"]),
        ("train/a.jpg", "a.jpg", ["file_name nested"]),
        ("C:\\data\\val\\b.jpg", "val/b.jpg", ["file_name nested", "file_name with other slashes"]),
        ("/home/me/a.jpg", "a.jpg", ["file_name nested"]),
        ("../a.jpg", "a.jpg", []),
        ("../../etc/passwd", "etc/passwd", []),
        ("missing/c.jpg", "missing/c.jpg", []),
        ("\0", "\0", []),
        ("..", "?", []),
        ("x" * 5000, "x" * 5000, []),
    ],
)
def test_names_of_files(tmp_path: Path, name: str, expected: str, notes: list[str]) -> None:
    """No name leads out of the folder."""
    (tmp_path / "val").mkdir()
    for file in ("a.jpg", "val/b.jpg"):
        (tmp_path / file).touch()
    found = Findings("x")
    assert ImageFolder(tmp_path, found).find(name) == tmp_path / expected
    assert list(found.found) == notes


@pytest.mark.parametrize(
    ("names", "ambiguous"), [(("1/a.jpg", "2/a.jpg"), True), (("a.jpg", "2/a.jpg"), True), (("a.jpg",) * 2, False)]
)
def test_two_names_for_one_file(tmp_path: Path, names: tuple[str, str], ambiguous: bool) -> None:
    (tmp_path / "a.jpg").touch()
    found = Findings("x")
    folder = ImageFolder(tmp_path, found)
    assert {folder.find(name) for name in names} == {tmp_path / "a.jpg"}
    assert ("file_name ambiguous" in found.found) == ambiguous
