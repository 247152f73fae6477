"""The backbone in a graph: from the image through the stem and its blocks to the finest and the coarsest feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from converter.errors import UnsupportedSourceError
from converter.readers.tflite.content.graph import SAME, Graph
from converter.readers.tflite.content.schema import Operation
from effdet_torch.architecture.backbone import BACKBONE_TOP, BACKBONES, backbone_blocks, output_stages, stem_channels

CONV, DEPTHWISE = "CONV_2D", "DEPTHWISE_CONV_2D"
MEANS = ("MEAN", "AVERAGE_POOL_2D")
MAX_BLOCKS = 200  # l2, the largest, has 87


@dataclass
class BlockFound:
    """A block: its convolutions in the order of execution, and what it gives.

    Attributes:
        outline: kernel size, stride, channels inside, channels out, channels of squeeze-excite (0: none).
        is_residual: whether it adds its input.
    """

    operations: list[Operation]
    outline: tuple[int, int, int, int, int]
    output: int
    is_residual: bool


@dataclass
class BackboneFound:
    """The backbone of a graph.

    Attributes:
        name: "efficientnet-b0".
        stem: the first convolution.
        blocks: all of them.
        features: {level: tensor}.
        activations: names of those that were seen, by the operation in front.
    """

    name: str
    stem: Operation
    blocks: list[BlockFound]
    features: dict[int, int]
    activations: dict[str, int] = field(default_factory=dict)


def walk_backbone(graph: Graph, image: int) -> BackboneFound:
    """Follow a graph from the image, and recognise the backbone by its blocks.

    Args:
        graph: of the file.
        image: the tensor that the stem takes.

    Raises:
        UnsupportedSourceError: These are not the blocks of an EfficientNet.
    """
    stems = graph.consumers(image, CONV)
    if len(stems) != 1 or _shape(graph, stems[0])[-1] != 3:
        raise UnsupportedSourceError("no convolution of an image with 3 colours")
    seen: dict[str, int] = {}
    current = _activated(graph, stems[0], seen)
    blocks: list[BlockFound] = []
    while len(blocks) < MAX_BLOCKS and (block := _block(graph, current, seen)):
        blocks.append(block)
        current = block.output
    name = _name(_shape(graph, stems[0])[0], blocks)
    last = {block.stage: block.flat for block in backbone_blocks(name)}
    features = {level: blocks[last[stage]].output for level, stage in output_stages(name).items()}
    return BackboneFound(name, stems[0], blocks, features, seen)


def _block(graph: Graph, current: int, seen: dict[str, int]) -> BlockFound | None:
    """Return the block that takes a tensor; None if it is the last feature."""
    operations: list[Operation] = []
    inner, expansions = current, [op for op in graph.consumers(current, CONV) if _expands(graph, op)]
    if len(expansions) == 1:
        operations.append(expansions[0])
        inner = _activated(graph, expansions[0], seen)
    depthwise = graph.consumers(inner, DEPTHWISE)
    if len(depthwise) != 1 or len(expansions) > 1:
        return None
    operations.append(depthwise[0])
    inner = _activated(graph, depthwise[0], seen)
    squeezed = _squeeze_excite(graph, inner, seen)
    operations += squeezed[0]
    projections = graph.consumers(squeezed[1], CONV)
    if len(projections) != 1:
        return None
    operations.append(projections[0])
    output = projections[0].outputs[0]
    additions = [op for op in graph.consumers(output, "ADD") if current in op.inputs]
    kernel, squeeze = _shape(graph, depthwise[0]), squeezed[0]
    outline = (
        kernel[1],
        depthwise[0].options["stride_h"],
        kernel[3],
        _shape(graph, projections[0])[0],
        _shape(graph, squeeze[0])[0] if squeeze else 0,
    )
    return BlockFound(operations, outline, additions[0].outputs[0] if additions else output, bool(additions))


def _expands(graph: Graph, operation: Operation) -> bool:
    """Whether a convolution is the first one of a block: an activation and a depthwise convolution follow."""
    after = graph.activated(operation.outputs[0])
    return bool(after.name) and len(graph.consumers(after.tensor, DEPTHWISE)) == 1


def _squeeze_excite(graph: Graph, inner: int, seen: dict[str, int]) -> tuple[list[Operation], int]:
    """Return the convolutions of squeeze-excite and what they scale; ([], the tensor itself) without it."""
    means = graph.consumers(inner, *MEANS)
    if not means:
        return [], inner
    reductions = graph.consumers(means[0].outputs[0], CONV)
    expansions = graph.consumers(_activated(graph, reductions[0], seen), CONV) if reductions else []
    gates = graph.consumers(expansions[0].outputs[0], "LOGISTIC") if expansions else []
    products = graph.consumers(gates[0].outputs[0], "MUL") if gates else []
    if not products or inner not in products[0].inputs:
        raise UnsupportedSourceError("a squeeze-excite of another form than in google/automl's EfficientNets")
    return [reductions[0], expansions[0]], products[0].outputs[0]


def _activated(graph: Graph, operation: Operation, seen: dict[str, int]) -> int:
    after = graph.activated(operation.outputs[0])
    seen.setdefault(after.name or "none", operation.index)
    return after.tensor


def _shape(graph: Graph, operation: Operation) -> tuple[int, ...]:
    """Return the shape of a kernel: (O, H, W, I), or (1, H, W, C) of a depthwise one."""
    shape = graph.tensor(operation.inputs[1]).shape if len(operation.inputs) > 1 else ()
    if len(shape) != 4 or not graph.is_constant(operation.inputs[1]):
        raise UnsupportedSourceError(f"a convolution (operation {operation.index}) without a constant kernel")
    require_usual(operation, shape)
    return shape


def require_usual(operation: Operation, shape: tuple[int, ...], stride: int | None = None) -> None:
    """Check that a convolution is one of an EfficientDet, as far as its options say.

    Args:
        operation: the convolution.
        shape: of its kernel.
        stride: what it must be; None: any.

    Raises:
        UnsupportedSourceError: Another padding, a dilation, or different strides.
    """
    options = operation.options
    is_still = stride in (None, options["stride_h"])
    usual = (
        is_still and options["stride_w"] == options["stride_h"] and options["dilation_w"] == options["dilation_h"] == 1
    )
    padded = options["padding"] == SAME or shape[1] == shape[2] == 1
    if not (usual and padded and shape[1] == shape[2]):
        raise UnsupportedSourceError(
            f"a convolution (operation {operation.index}) with the kernel {shape} and the options "
            f"{ {name: int(value) for name, value in options.items()} }, which no EfficientDet has"
        )


def _name(stem: int, blocks: list[BlockFound]) -> str:
    """Return the backbone whose blocks these are."""
    found = [block.outline for block in blocks]
    for name in BACKBONES:
        expected = backbone_blocks(name)
        outlines = [
            (b.kernel_size, b.stride, b.mid_channels, b.out_channels, b.squeeze_excite_channels) for b in expected
        ]
        residual = [b.stride == 1 and b.in_channels == b.out_channels for b in expected]
        if stem == stem_channels(name) and found == outlines and residual == [block.is_residual for block in blocks]:
            return name
    channels = f" with {', '.join(str(outline[3]) for outline in found[:20])} channels" if found else ""
    what = f"{len(blocks)} blocks{channels}"
    raise UnsupportedSourceError(
        f"a stem of {stem} channels, then {what}: not an EfficientNet B0 to B8, L2 or Lite0 to Lite4"
    )


def features_used(graph: Graph, found: BackboneFound) -> Mapping[int, int]:
    """Return the {level: tensor} that something outside of the backbone takes."""
    own = {id(operation) for block in found.blocks for operation in block.operations}
    inside = {block.output for block in found.blocks}

    def leaves(tensor: int) -> bool:
        users = graph.consumers(tensor)
        return any(id(op) not in own and not set(op.outputs) & inside for op in users)

    return {level: tensor for level, tensor in found.features.items() if leaves(tensor) or level == BACKBONE_TOP}
