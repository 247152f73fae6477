"""Networks of TensorFlow Lite that are something else, called by what they are."""

from __future__ import annotations

import re
from collections import Counter

from converter.errors import UnsupportedSourceError
from converter.readers.tflite.content.schema import Subgraph
from effdet_torch.errors import listed

EDGE_TPU = "edgetpu-custom-op"
# (pattern in the names of tensors, what the network is); the first match counts.
KNOWN: tuple[tuple[str, str], ...] = (
    (r"(?i)mobilenet.*(boxpredictor|ssd)|ssd.*mobilenet", "a MobileNet SSD"),
    (r"(?i)mobilenet", "a MobileNet"),
    (r"(?i)yolo", "a YOLO detector"),
    (r"(?i)spaghettinet", "a SpaghettiNet"),
    (r"(?i)(^|/)resnet", "a ResNet"),
)
SHOWN_KINDS = 5


def refuse(subgraph: Subgraph) -> None:
    """Refuse a graph that cannot be an EfficientDet, with a text that says what it is.

    Raises:
        UnsupportedSourceError: It is compiled for an Edge TPU, or another network by its names.
    """
    kinds = Counter(operation.kind for operation in subgraph.operations)
    if EDGE_TPU in kinds:
        raise UnsupportedSourceError(
            "it is compiled for an Edge TPU: its weights lie in the compiled program, which cannot be read; convert "
            "the file that went into the Edge TPU compiler, usually of the same name without _edgetpu"
        )
    names = [tensor.name for tensor in subgraph.tensors]
    for pattern, what in KNOWN:
        if example := next((name for name in names if re.search(pattern, name)), None):
            raise UnsupportedSourceError(f"by its names ({example[:100]!r}) it is {what}; only EfficientDets are read")
    if "CONV_2D" not in kinds:
        shown = [f"{count} {kind[:40]}" for kind, count in kinds.most_common(SHOWN_KINDS)]
        raise UnsupportedSourceError(f"a graph without convolutions ({listed(shown) or 'empty'})")
