"""Whatever an annotation file holds, it becomes what pycocotools evaluates, or is refused in words."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from effdet_torch.data.classes import fit_classes
from effdet_torch.data.dataset import DataSet
from effdet_torch.data.sources import DataSource
from effdet_torch.errors import EvaluationError
from effdet_torch.metrics.coco import coco_metrics
from support.coco_samples import annotation, result

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.sampled_from(
        [2**53, 10**30, -1.5, 1e308, math.nan, math.inf, "", "1", " 2 ", "1.0", "a", "nan", "x/1.jpg", "..\\2"]
    ),
    st.lists(st.integers(-2, 9) | st.sampled_from(["3", None, math.inf]), max_size=5),
    st.dictionaries(st.sampled_from(["id", "name"]), st.integers(0, 3), max_size=2),
)
KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "categories": ("id", "name", "supercategory"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"),
}


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    """An annotation file with some odd values."""
    content: dict[str, Any] = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 40, "height": 30} for n in (1, 2)],
        "categories": [{"id": n, "name": f"c{n}"} for n in (1, 2)],
        "annotations": [annotation(n, 1 + n % 2, 1 + n % 2, (1, 2, 10, 20)) for n in (1, 2, 3)],
    }
    for _ in range(draw(st.integers(0, 4))):
        part = draw(st.sampled_from(sorted(KEYS)))
        row = draw(st.integers(0, len(content[part])))
        if row == len(content[part]):
            content[part].append(draw(ODD | st.sampled_from(content[part])))
        elif isinstance(content[part][row], dict):
            key = draw(st.sampled_from(KEYS[part]))
            content[part][row] = dict(content[part][row]) | {key: draw(ODD)}
            if draw(st.booleans()):
                content[part][row].pop(key)
    return content


def read(path: Path, names: dict[int, str]) -> DataSet | str:
    """Return the data set, or why it is refused."""
    try:
        return fit_classes(DataSource(annotations=path, images=path.parent).read(), 2, names)
    except EvaluationError as error:
        return str(error)


@settings(max_examples=400, deadline=None)
@given(contents(), st.sampled_from([{}, {1: "c1", 2: "c2"}, {1: "c2", 2: "c1"}]))
def test_usable_or_refused(content: dict[str, Any], names: dict[int, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_text(json.dumps(content))
        data = read(path, names)
    if isinstance(data, str):
        assert data.startswith("x.json")
        return
    assert len(set(data.image_ids)) == len(data.images)
    assert {x.category_id for x in data.objects} <= set(data.categories) <= {1, 2}
    assert {x.image_id for x in data.objects} <= set(data.image_ids)
    found = [result(x.image_id, x.category_id, x.bbox, 0.9) for x in data.objects]
    assert coco_metrics(data.dataset, found, data.image_ids)["AR100"] >= 0.999
