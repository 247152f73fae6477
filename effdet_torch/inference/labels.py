"""Names of the classes. Channel c of the class head is category c + 1, for COCO and for your own classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from effdet_torch.errors import UsageError

COCO_NUM_CLASSES = 90

# COCO's category ids have gaps: 80 of the 90 ids were annotated.
COCO_NAMES: Mapping[int, str] = {
    1: "person",
    2: "bicycle",
    3: "car",
    4: "motorcycle",
    5: "airplane",
    6: "bus",
    7: "train",
    8: "truck",
    9: "boat",
    10: "traffic light",
    11: "fire hydrant",
    13: "stop sign",
    14: "parking meter",
    15: "bench",
    16: "bird",
    17: "cat",
    18: "dog",
    19: "horse",
    20: "sheep",
    21: "cow",
    22: "elephant",
    23: "bear",
    24: "zebra",
    25: "giraffe",
    27: "backpack",
    28: "umbrella",
    31: "handbag",
    32: "tie",
    33: "suitcase",
    34: "frisbee",
    35: "skis",
    36: "snowboard",
    37: "sports ball",
    38: "kite",
    39: "baseball bat",
    40: "baseball glove",
    41: "skateboard",
    42: "surfboard",
    43: "tennis racket",
    44: "bottle",
    46: "wine glass",
    47: "cup",
    48: "fork",
    49: "knife",
    50: "spoon",
    51: "bowl",
    52: "banana",
    53: "apple",
    54: "sandwich",
    55: "orange",
    56: "broccoli",
    57: "carrot",
    58: "hot dog",
    59: "pizza",
    60: "donut",
    61: "cake",
    62: "chair",
    63: "couch",
    64: "potted plant",
    65: "bed",
    67: "dining table",
    70: "toilet",
    72: "tv",
    73: "laptop",
    74: "mouse",
    75: "remote",
    76: "keyboard",
    77: "cell phone",
    78: "microwave",
    79: "oven",
    80: "toaster",
    81: "sink",
    82: "refrigerator",
    84: "book",
    85: "clock",
    86: "vase",
    87: "scissors",
    88: "teddy bear",
    89: "hair drier",
    90: "toothbrush",
}


def default_label_map(num_classes: int) -> Mapping[int, str]:
    """Return COCO's {category id: name} for its 90 classes, and nothing for any other number."""
    return COCO_NAMES if num_classes == COCO_NUM_CLASSES else {}


def category_name(category_id: int, label_map: Mapping[int, str]) -> str:
    """Return the name of a category, or "class 7" for one without a name."""
    return label_map.get(category_id, f"class {category_id}")


def read_labels(path: str | Path) -> dict[int, str]:
    """Read class names from a file.

    `.json` and `.yaml` hold {category id: name} (the official `label_map`) or COCO's "categories"; any other file one
    name per line, the first for category 1; an empty line leaves its category without a name.

    Returns:
        {category id: name}; ids start at 1.

    Raises:
        UsageError: The file cannot be read, or does not hold that.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() not in (".json", ".yaml", ".yml"):
            return {number: line.strip() for number, line in enumerate(text.splitlines(), 1) if line.strip()}
        content = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read the class names in {path}: {error}") from error
    return _read_label_map(path, content)


def _read_label_map(path: Path, content: Any) -> dict[int, str]:
    try:
        if "categories" in content:
            content = {category["id"]: category["name"] for category in content["categories"]}
        names = {int(number): str(name) for number, name in content.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} does not hold class names: expected {{category id: name}}, or COCO's categories with id and name"
        ) from error
    if wrong := [number for number in names if number < 1]:
        raise UsageError(f"{path} names category {wrong[0]}; category ids start at 1 (class channel + 1)")
    return names
