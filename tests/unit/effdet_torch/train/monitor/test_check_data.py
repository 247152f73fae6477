"""The look at a data set before a training."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdet_torch.data.dataset import DataImage, DataSet
from effdet_torch.data.files import check_images
from effdet_torch.data.sources import read_split
from effdet_torch.errors import EvaluationError, OutputError
from effdet_torch.inference.results.visualize import class_color
from effdet_torch.train.monitor.check_data import check_data
from effdet_torch.train.monitor.samples import annotated_png
from effdet_torch.train.run.pictures import CAPTION_PX
from support.coco_samples import write_coco


def test_counts_and_a_picture(tmp_path: Path) -> None:
    train = check_images(read_split(write_coco(tmp_path)))
    done: list[tuple[int, int]] = []
    found = check_data(train, train, train.notes, tmp_path / "check.png", progress=lambda *x: done.append(x))
    assert (found.train, found.notes) == (found.val, train.notes)
    assert (found.train.images, found.train.boxes, [x.boxes for x in found.train.classes]) == (4, 4, [2, 2])
    assert done == [(4, 4)]
    with Image.open(tmp_path / "check.png") as picture:
        assert picture.size == (4 * 100, 80 + CAPTION_PX)


def test_boxes_are_where_the_objects_are(tmp_path: Path) -> None:
    data = check_images(read_split(write_coco(tmp_path, ids=(1,))))
    (item,) = data.objects

    def border(of: DataSet) -> bool:
        pixels = np.asarray(Image.open(BytesIO(annotated_png(of))))[CAPTION_PX:]
        x, y, width, height = item.bbox
        colour = np.array(class_color(item.category_id))
        return bool((pixels[round(y + height), round(x + width / 2)] == colour).all())

    assert border(data)
    assert not border(replace(data, objects=(item._replace(bbox=(30, 20, 8, 8)),)))  # negative control


def test_damaged_pixels_behind_a_good_header(tmp_path: Path) -> None:
    data = check_images(read_split(write_coco(tmp_path)))
    path = data.images[1].path
    path.write_bytes(path.read_bytes()[:-200])
    assert check_images(data) == data  # headers are good
    with pytest.raises(EvaluationError, match=rf"1 of 4 images cannot be decoded: .*{path.name} is damaged.*Replace"):
        check_data(data, data, (), tmp_path / "check.png")
    assert not (tmp_path / "check.png").exists()


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    data = check_images(read_split(write_coco(tmp_path)))
    with pytest.raises(OutputError, match=r"check\.png cannot be written"):
        check_data(data, data, (), tmp_path / "missing" / "check.png")


@pytest.mark.parametrize(("annotated", "turned"), [((40, 20), False), ((20, 40), True)])
def test_photographs_are_drawn_in_the_frame_of_their_boxes(
    tmp_path: Path, annotated: tuple[int, int], turned: bool
) -> None:
    """The orientation 6 turns a picture to the right: its left quarter comes to the top."""
    exif = Image.Exif()
    exif[0x112] = 6
    stored = Image.new("RGB", (40, 20), "white")
    stored.paste((255, 0, 0), (0, 0, 10, 20))
    stored.save(tmp_path / "1.png", exif=exif)
    images = (DataImage(1, tmp_path / "1.png", annotated),)
    data = check_images(DataSet("x", tmp_path / "x.json", images, {}, ()))
    pixels = np.asarray(Image.open(BytesIO(annotated_png(data))))[CAPTION_PX:]
    red, white = ((2, 15), (15, 5)) if turned else ((15, 5), (2, 15))
    assert (pixels[red].tolist(), pixels[white].tolist()) == ([255, 0, 0], [255, 255, 255])
