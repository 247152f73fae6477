"""COCO annotation files: in COCO's own layout, beside a folder of images, or as Roboflow exports them.

The split "testdev" has no annotations: its list of images is image_info_test-dev2017.json, its folder test2017.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effdet_torch.data.dataset import TEST_DEV, RawData
from effdet_torch.data.rules import Findings
from effdet_torch.errors import EvaluationError, listed
from effdet_torch.untrusted.documents import parse_json
from effdet_torch.untrusted.files import MAX_JSON_BYTES, read_bytes, reason_of

VAL = "val2017"
ROBOFLOW_FILE = "_annotations.coco.json"


def coco_layout(root: Path, name: str | None = None) -> RawData:
    """Read a split of COCO as it is downloaded: ROOT/annotations/instances_SPLIT.json and ROOT/SPLIT/*.jpg.

    The images may also be in ROOT/images/SPLIT.

    Raises:
        EvaluationError: The file is missing or is not in COCO's format.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise EvaluationError(f"{root} {what}; --coco takes COCO's folder, --annotations FILE --images DIR one file")
    name = name or VAL
    test_dev = name == TEST_DEV
    path = root / "annotations" / ("image_info_test-dev2017.json" if test_dev else f"instances_{name}.json")
    if not path.is_file():
        above = root.absolute().parent
        is_below = (above / "annotations" / path.name).is_file()
        next_step = f"pass the folder above, {above}" if is_below else "for other layouts pass --data DIR"
        raise EvaluationError(
            f"{path} cannot be read: No such file. Expected COCO's layout: ROOT/annotations/{path.name} beside the "
            f"folder of images{_others(path)}; {next_step}"
        )
    folder = "test2017" if test_dev else name
    folders = (root / folder, root / "images" / folder)
    return coco_file(path, next((x for x in folders if x.is_dir()), folders[0]), name)


def coco_file(path: Path, folder: Path, name: str | None = None) -> RawData:
    """Read an annotation file and the names of the images in a folder."""
    test_dev = name == TEST_DEV
    content = _read(path, ("images",) if test_dev else ("images", "annotations", "categories"))
    name = name or path.stem.removeprefix("instances_")
    return RawData(name, path, folder, content, Findings(path.name), has_truth=not test_dev)


def roboflow_folder(folder: Path, name: str | None = None) -> RawData:
    """Read a folder in which the annotation file is beside the images, or one folder below for every split."""
    folders = [folder / name] if name else [folder, *(folder / split for split in ("valid", "val", "test"))]
    found = next((x for x in folders if (x / ROBOFLOW_FILE).is_file()), None)
    if found is None:
        raise EvaluationError(f"{folder} has no {ROBOFLOW_FILE} in {listed(x.name for x in folders)}; choose a --split")
    return coco_file(found / ROBOFLOW_FILE, found, found.name)


def coco_splits(root: Path) -> list[str]:
    """Return the splits of COCO's layout that have annotations."""
    return sorted(x.stem.removeprefix("instances_") for x in root.glob("annotations/instances_*.json"))


def roboflow_splits(folder: Path) -> list[str]:
    """Return the folders below that are splits; none if the folder itself is one."""
    return (
        [] if (folder / ROBOFLOW_FILE).is_file() else sorted(x.parent.name for x in folder.glob(f"*/{ROBOFLOW_FILE}"))
    )


def _others(path: Path) -> str:
    splits = coco_splits(path.parent.parent)
    return f"; it has the splits {listed(splits)}" if splits else ""


def _read(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        content = parse_json(read_bytes(path, MAX_JSON_BYTES))
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {reason_of(error)}") from error
    except ValueError as error:
        raise EvaluationError(f"{path} is not JSON: {error}; download or export it again") from error
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise EvaluationError(f"{path} is not a COCO annotation file: it has no list {key!r}")
    return dict(content)
