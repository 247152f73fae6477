"""What people call the parts of a data set."""

from __future__ import annotations

import re
from collections.abc import Collection

TRAINING = ("train2017", "train", "training", "trainval")
VALIDATION = ("val2017", "val", "valid", "validation", "dev", "test")


def pick(splits: Collection[str], usual: Collection[str]) -> str | None:
    """Return the first split with one of the usual names; else the only one that has one as a word, as coco_train has.

    None if there is no such split.
    """
    for name in usual:
        found = [split for split in splits if split == name] or [x for x in splits if name in re.split("[^a-z]+", x)]
        if len(found) == 1:
            return found[0]
    return None
