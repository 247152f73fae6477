"""A whole model as a graph, with the inputs and outputs of the official files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from effdet_torch.config import EfficientDetConfig
from effdet_torch.engines.document import Interface, profile_from
from effdet_torch.errors import ConfigError
from effdet_torch.export.tflite.build.backbone import add_backbone
from effdet_torch.export.tflite.build.detections import add_detections
from effdet_torch.export.tflite.build.heads import add_head
from effdet_torch.export.tflite.build.operations import Operations
from effdet_torch.export.tflite.build.pyramid import add_pyramid
from effdet_torch.export.tflite.graph import Graph, Tensor
from effdet_torch.network.model import EfficientDet

INPUT = "images"  # in both signatures
# Number of outputs -> the order in which TensorFlow's converter lists those of the signature; others stay in order.
LISTED: Mapping[int, Sequence[int]] = {4: (1, 3, 0, 2), 10: (9, 4, 1, 7, 5, 3, 0, 2, 8, 6)}
# Setting -> the values that the operations of TensorFlow Lite can compute as PyTorch does.
POSSIBLE: Mapping[str, Sequence[str]] = {
    "activation": ("swish", "relu6", "relu", "hswish"),
    "padding": ("same",),
    "backbone_style": ("tensorflow",),
    "resampling": ("max_nearest",),
}


def build_graph(model: EfficientDet, config: EfficientDetConfig, interface: Interface) -> Graph:
    """Return the graph of a model in float32, for one image of one size.

    Args:
        model: in float32, on the CPU, in eval mode.
        config: of the model, with the image size of the file.
        interface: of the file.

    Raises:
        ConfigError: The model has a part that such a graph cannot hold.
    """
    require_possible_model(config)
    assert model.class_net is not None
    assert model.box_net is not None
    signature = "predict" if interface.outputs == "network" else "tflite"
    image = Tensor(f"{signature}_images:0", (1, *config.image_size, 3), np.dtype(np.float32))
    graph = Operations()
    levels = add_pyramid(graph, model.fpn, config, add_backbone(graph, model.backbone, config.backbone, image))
    logits = add_head(graph, model.class_net, "class", config.levels, levels)
    deltas = add_head(graph, model.box_net, "box", config.levels, levels)
    outputs, call = [*logits, *deltas], "StatefulPartitionedCall"
    if interface.outputs == "detections":
        found = add_detections(graph, config, profile_from(interface.profile), logits, deltas)
        outputs, call = [*reversed(found)], "StatefulPartitionedCall_1"
    for number, output in enumerate(outputs):
        output.name = f"{call}:{number}"
    order = LISTED.get(len(outputs), range(len(outputs)))
    names = [f"output_{number}" for number in order]
    return Graph({INPUT: image}, [outputs[number] for number in order], names, graph.operations, signature)


def require_possible_model(config: EfficientDetConfig) -> None:
    """Refuse a model that no such graph can hold.

    Raises:
        ConfigError: It has another head, or a setting that TensorFlow Lite's operations do not compute.
    """
    if config.segments:
        raise ConfigError("a .tflite file has no room for a segmentation head; choose another --format")
    for name, values in POSSIBLE.items():
        if (found := getattr(config, name)) not in values:
            raise ConfigError(
                f"{name} is {found!r}; a .tflite file is written for {' or '.join(map(repr, values))}; choose another "
                "--format"
            )
