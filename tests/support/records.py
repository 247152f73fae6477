"""TFRecords, written by TensorFlow: the official tools' features of a few small images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (40, 20)  # width, height
PREFIX = "image/object/"


def encoded(color: int = 0, size: tuple[int, int] = SIZE) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (color, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def features(number: int, boxes: Sequence[Sequence[float]] = ((0.25, 0.5, 0.75, 1),), **changes: Any) -> dict[str, Any]:
    """What create_coco_tfrecord writes for one image; boxes are shares (xmin, ymin, xmax, ymax)."""
    count = len(boxes)
    columns = zip(("xmin", "ymin", "xmax", "ymax"), np.array(boxes, float).reshape(-1, 4).T.tolist(), strict=True)
    found: dict[str, Any] = {
        "image/height": [SIZE[1]],
        "image/width": [SIZE[0]],
        "image/filename": [f"{number}.png".encode()],
        "image/source_id": [str(number).encode()],
        "image/encoded": [encoded(number)],
        "image/format": [b"png"],
        **{f"{PREFIX}bbox/{side}": values for side, values in columns},
        f"{PREFIX}class/text": [b"cat", b"dog"][:1] * count,
        f"{PREFIX}class/label": [1] * count,
        f"{PREFIX}is_crowd": [0] * count,
        f"{PREFIX}area": [50.0] * count,
    }
    return {key: value for key, value in (found | changes).items() if value is not None}


def example(values: dict[str, Any]) -> bytes:
    """Serialise with TensorFlow's own classes."""
    import tensorflow as tf

    def feature(items: list[Any]) -> Any:
        if items and isinstance(items[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=items))
        if items and isinstance(items[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=items))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=items))

    content = {key: feature(items) for key, items in values.items()}
    return bytes(tf.train.Example(features=tf.train.Features(feature=content)).SerializeToString())


def write_records(path: Path, *images: dict[str, Any] | bytes) -> Path:
    """Write records with TensorFlow's own writer."""
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image in images:
            writer.write(image if isinstance(image, bytes) else example(image))
    return path
