"""What a file states besides its weights: image size, anchors, the settings of its detections, names of classes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.errors import UnsupportedSourceError
from converter.formats.flat.flexbuffer import Number, read_numbers
from converter.readers.tflite.anchors import explain
from converter.readers.tflite.content.constants import real_values
from converter.readers.tflite.content.schema import Model, Operation
from converter.readers.tflite.metadata import read_labels, read_metadata
from converter.readers.tflite.walk.found import NetworkFound
from converter.readers.tflite.walk.heads import DETECTION
from converter.source import GraphEvidence
from effdet_torch.file_format import GRAPH

Given = tuple[str, Mapping[str, Any]]  # (origin, hyperparameters in the official syntax)
BLOCKS: Given = ("the file's graph", {"backbone_config": None})  # which has the blocks of its backbone, and no others
# Type of a quantised image -> what must be added to its zero point, so that pixels count from 0.
PIXELS: Mapping[str, int] = {"uint8": 0, "int8": 128}
SCALES = ("y_scale", "x_scale", "h_scale", "w_scale")
FOLDED = (
    "batch norms are folded into the layers before them and come back as biases: the network is the same; gamma, beta, "
    "mean and variance as they were trained, and the biases in front of batch norms, are lost"
)
# Type of most kernels -> what that means.
PRECISIONS: Mapping[str, str] = {
    "float16": "the kernels are stored in half precision: the network computes what the file does, not quite what was "
    "trained (some thousandths of the outputs' rms)",
    "int8": "the kernels are 8-bit codes, which are dequantised: the result computes in floating point; its outputs "
    "differ from the trained network's by about .15 of their rms at worst, and from the file's own by about .35",
}


@dataclass(frozen=True)
class Stated:
    """Hyperparameters in the official syntax with their origins, and what else the user should know."""

    given: tuple[Given, ...]
    notes: tuple[str, ...]


def read_stated(path: Path, network: NetworkFound, model: Model, data: memoryview) -> Stated:
    """Return what a file states.

    Args:
        path: the file.
        network: found in its graph.
        model: its tables.
        data: its bytes.

    Raises:
        CorruptFileError: A part of it is damaged.
        UnsupportedSourceError: Its detections need something that cannot be converted, such as other anchors.
    """
    metadata = read_metadata(model.metadata)
    given, notes = [_image(network), BLOCKS], [FOLDED, *_precision(network)]
    if scaling := metadata.scaling:
        given.append(("the file's metadata", {"mean_rgb": scaling[0], "stddev_rgb": scaling[1], "scale_range": False}))
    if quantised := _quantised_image(network):
        given.append(quantised)
    if operation := next((op for op in network.graph.operations if op.kind == DETECTION), None):
        given += [_anchors(network, operation), _detections(network, read_numbers(operation.custom), notes)]
    labels, problem = read_labels(path, data, metadata.label_file)
    if labels and max(labels) > network.classes:
        labels, problem = {}, f"names of classes are not used: {max(labels)} lines for {network.classes} classes"
    if labels:
        given.append(("the file's labels", {"label_map": labels}))
    return Stated(tuple(item for item in given if item[1]), (*notes, *filter(None, [problem])))


def _image(network: NetworkFound) -> Given:
    height, width = network.graph.tensor(network.image).shape[1:3]
    if min(height, width) < 2:  # resized at run time
        return "the file's input", {}
    return "the file's input", {"image_size": height if height == width else f"{width}x{height}"}


def _quantised_image(network: NetworkFound) -> Given | None:
    """Return the scaling of pixels that a quantised input means; None for an input of real numbers."""
    tensor = network.graph.tensor(network.image)
    if tensor.dtype not in PIXELS or len(tensor.scales) != 1 or len(tensor.zero_points) > 1:
        return None
    scale, zero = float(tensor.scales[0]), int(tensor.zero_points[0]) if len(tensor.zero_points) else 0
    if not (math.isfinite(scale) and scale > 0):
        raise UnsupportedSourceError(f"the image's codes have the scale {scale}; expected a positive number")
    mean = float(zero + PIXELS[tensor.dtype])
    return "the file's quantised input", {
        "mean_rgb": mean,
        "stddev_rgb": round(1 / scale, 4),
        "scale_range": False,
    }


def _anchors(network: NetworkFound, operation: Operation) -> Given:
    constant = operation.inputs[2] if len(operation.inputs) > 2 else -1
    if not network.graph.is_constant(constant):
        raise UnsupportedSourceError("its detection operation has no constant with anchors")
    tensor, image = network.graph.tensor(constant), network.graph.tensor(network.image)
    heights, widths = image.shape[1:3]
    cells = [network.graph.tensor(chain.output).shape[1:3] for _, chain in sorted(network.heads["box"].items())]
    sizes = [(down, across) for down, across in cells]
    return "the file's anchors", explain(real_values(tensor), tensor.dtype, (heights, widths), sizes)


def _detections(network: NetworkFound, options: Mapping[str, Number], notes: list[str]) -> Given:
    """Return the settings of the detection operation, and add notes on what they cannot say."""
    if scaled := [name for name in SCALES if options.get(name, 1) != 1]:
        raise UnsupportedSourceError(
            f"its detection operation divides boxes by {options[scaled[0]]:g} ({scaled[0]}): the box coder of the TF "
            "Object Detection API, not of an EfficientDet of google/automl"
        )
    if (classes := options.get("num_classes", network.classes)) != network.classes:
        raise UnsupportedSourceError(
            f"its detection operation has {classes:g} classes, the class head {network.classes}"
        )
    if not 0 < (overlap := options.get("nms_iou_threshold", 0.5)) <= 1:
        raise UnsupportedSourceError(
            f"its detection operation has the nms_iou_threshold {overlap:g}; expected above 0, up to 1"
        )
    notes += _beyond(options)
    found: dict[str, Any] = {"method": "hard"}
    for name, option in (("iou_thresh", "nms_iou_threshold"), ("score_thresh", "nms_score_threshold")):
        if 0 < (value := options.get(option, 0)) <= 1:
            found[name] = round(float(value), 6)
    if 0 < (most := options.get("max_detections", 0)) < math.inf:
        found["max_output_size"] = int(most)
    return "the file's detection operation", {"nms_configs": found}


def _beyond(options: Mapping[str, Number]) -> list[str]:
    """Return notes on what the detection operation does, and the result's own profile does not."""
    if options.get("use_regular_nms"):
        return [
            "the file suppresses boxes class by class (use_regular_nms), the result's own profile those of all "
            "classes: to detect like the file, pass --profile tflite-regular"
        ]
    if (classes := options.get("max_classes_per_detection", 1)) > 1:
        return [f"the file gives up to {classes:g} classes of a box (max_classes_per_detection), the result the best"]
    return []


def kernel_types(network: NetworkFound) -> Counter[str]:
    """Return how many kernels have which type."""
    operations = [site.operation for sites in network.sites.values() for site in sites]
    return Counter(network.graph.tensor(operation.inputs[1]).dtype for operation in operations)


def _precision(network: NetworkFound) -> list[str]:
    """Return a note on the type of the kernels, unless they are float32."""
    types = kernel_types(network)
    return [note for dtype, note in PRECISIONS.items() if types[dtype]]


def evidence_of(name: str, network: NetworkFound) -> GraphEvidence:
    """Return what the graph shows of the network."""
    pyramid, heads = network.pyramid, network.heads
    pools_first = [item.pools_first for cell in pyramid.cells for node in cell for item in node.inputs if item.conv]
    hparams: dict[str, Any] = {
        "act_type": network.activation,
        "fpn_weight_method": network.fusion,
        "fpn_name": pyramid.cell_name,
        "conv_after_downsample": pyramid.p6_pools_first or any(pools_first),
        "survival_prob": any(chain.is_residual for levels in heads.values() for chain in levels.values()),
    }
    return GraphEvidence(f"{GRAPH}{name})", hparams)
