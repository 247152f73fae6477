"""The images to train on and those to validate on: two splits of a data set, or one that is divided."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from effdet_torch.data.clean import clean, require_objects
from effdet_torch.data.dataset import DataImage, DataSet
from effdet_torch.data.files import check_images
from effdet_torch.data.layouts.split_names import TRAINING, VALIDATION, pick
from effdet_torch.data.plausible import trainable
from effdet_torch.data.rules import Findings, Note
from effdet_torch.data.sources import recognise
from effdet_torch.errors import UsageError
from effdet_torch.untrusted.files import MAX_IMAGE_BYTES, open_bytes

Pair = tuple[DataSet, DataSet]


def train_and_val(
    source: Path, val_split: float | None = None, train: str | None = None, val: str | None = None, seed: int = 0
) -> tuple[DataSet, DataSet, tuple[Note, ...]]:
    """Read and check the images to train on and those to validate on.

    Args:
        source: a data set of any layout.
        val_split: share of the training images that is taken for validation instead; 0 to 1, both excluded.
        train: the split to train on; by default the one with a usual name, else the only one.
        val: the split to validate on; by default the one with a usual name, else the training images.
        seed: which images `val_split` takes.

    Returns:
        (training images, images for validation, what was assumed about both).

    Raises:
        EvaluationError: A split cannot be read, or must be refused.
        UsageError: The options contradict each other, or leave a side without images.
    """
    if val_split is not None and val is not None:
        raise UsageError(f"choose one of --val-split {val_split:g} and the split {val!r} for validation")
    layout, found = recognise(source), Findings(source.name)
    names = layout.splits(source)
    validation = val or pick(names, VALIDATION)
    training = train or pick(names, TRAINING) or validation or (names[0] if len(names) == 1 else None)
    whole = require_trainable(check_images(clean(layout.read(source, training))))
    if val_split is not None:
        found.add_all("split unused", {validation} - {training, None})
        pair = divide(whole, val_split, seed)
        found.add_all("split divided", (image.name for image in pair[1].images))
        return *pair, found.notes()
    if validation in (training, None):
        found.add_all("one split", (image.name for image in whole.images))
        return whole, whole, found.notes()
    other = check_images(clean(layout.read(source, validation)))
    found.add_all("image in both splits", (image.name for image in images_in_both(whole, other)))
    return whole, other, found.notes()


def divide(data: DataSet, share: float, seed: int = 0) -> Pair:
    """Divide a data set by images; both sides get about the same share of the images of every class.

    Args:
        data: the data set.
        share: of the second part, 0 to 1, both excluded.
        seed: which images that are.

    Raises:
        UsageError: The share is not between 0 and 1, or leaves a side without images.
        EvaluationError: A side has no objects, or the first one none that can be trained.
    """
    count = round(share * len(data.images)) if 0 < share < 1 else 0
    if not 0 < count < len(data.images):
        raise UsageError(
            f"--val-split {share:g} leaves {count} of {len(data.images)} images for validation; expected a share "
            "between 0 and 1 that leaves images on both sides"
        )
    sizes, rarest = Counter(item.category_id for item in data.objects), dict[int, tuple[int, int]]()
    for item in data.objects:
        size = (sizes[item.category_id], item.category_id)
        rarest[item.image_id] = min(size, rarest.get(item.image_id, size))
    # Images of one rarest class lie side by side, in random order, and every n-th is taken.
    mixed = np.random.default_rng(seed).permutation(data.image_ids).tolist()
    order = sorted(mixed, key=lambda image_id: rarest.get(image_id, (0, 0)))
    taken = {order[int((position + 0.5) * len(order) / count)] for position in range(count)}
    left = set(order) - taken
    first, second = (data.only(ids, name=f"{data.name} {part}") for ids, part in ((left, "train"), (taken, "val")))
    return require_trainable(require_objects(first)), require_objects(second)


def require_trainable(data: DataSet) -> DataSet:
    """Return training images unless there is nothing in them to train.

    Raises:
        EvaluationError: They have annotations, and none of a single object that has a part in its image.
    """
    if data.has_truth and not trainable(data):
        found = Findings(data.path.name)
        found.add_all("nothing to train", (image.name for image in data.images))
        found.notes()
    return data


def images_in_both(train: DataSet, val: DataSet) -> Iterator[DataImage]:
    """Yield the images for validation whose files are, byte for byte, among the training images."""
    trained, sizes = {_bytes(image) for image in train.images}, {_bytes(image) for image in val.images}
    known = {_digest(image) for image in train.images if _bytes(image) in sizes}  # few have the same size
    yield from (image for image in val.images if _bytes(image) in trained and _digest(image) in known)


def _bytes(image: DataImage) -> int:
    return image.part.size if image.part else image.path.stat().st_size


def _digest(image: DataImage) -> bytes:
    with open_bytes(image.source, MAX_IMAGE_BYTES) as stream:
        return hashlib.sha256(stream.read()).digest()
