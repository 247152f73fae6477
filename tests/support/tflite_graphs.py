"""The graph that TensorFlow's converter makes of any EfficientDet, as a listing; its names decide what is filled in."""

from __future__ import annotations

from typing import Any

from effdet_torch.architecture.backbone import INVERTED
from effdet_torch.architecture.pyramid import Node, NodeInput, last_nodes
from effdet_torch.config import EfficientDetConfig
from support.tflite_files import DETECTION, Listing, Row

FUSED = {"relu": 1, "relu6": 3}
SIZES = {"FLOAT32": 4, "INT32": 4}
OPTIONS = {
    "h_scale": 1.0, "max_classes_per_detection": 1, "max_detections": 100, "nms_iou_threshold": 0.5,
    "nms_score_threshold": float("-inf"), "num_classes": 90, "use_regular_nms": 0, "w_scale": 1.0, "x_scale": 1.0,
    "y_scale": 1.0,
}  # fmt: skip


class Graph:
    """A listing that grows by one operation after another."""

    def __init__(self, config: EfficientDetConfig) -> None:
        self.config, self.tensors, self.operations = config, list[Row](), list[Row]()

    def tensor(self, name: str, shape: tuple[int, ...], dtype: str = "FLOAT32", constant: bool = False) -> int:
        size = 1
        for side in shape:
            size *= side
        self.tensors.append(Row(name, dtype, shape, size * SIZES[dtype] if constant else 0))
        return len(self.tensors) - 1

    def shape(self, index: int) -> tuple[int, ...]:
        return self.tensors[index].shape

    def add(self, kind: str, inputs: list[int], shape: tuple[int, ...], **options: Any) -> int:
        output = self.tensor(f"{kind}_{len(self.operations)}", shape)
        self.operations.append(Row(kind, inputs=tuple(inputs), outputs=(output,), options=options))
        return output

    def conv(self, x: int, name: str, channels: int, size: int = 1, stride: int = 1, act: bool = False) -> int:
        batch, height, width, inputs = self.shape(x)
        kernel = self.tensor(name, (channels, size, size, inputs), constant=True)
        bias = self.tensor(f"{name}/bias", (channels,), constant=True)
        out = (batch, -(-height // stride), -(-width // stride), channels)
        return self.act(self._conv("CONV_2D", [x, kernel, bias], out, stride, act), act)

    def depthwise(self, x: int, name: str, size: int = 3, stride: int = 1, act: bool = False) -> int:
        batch, height, width, channels = self.shape(x)
        kernel = self.tensor(name, (1, size, size, channels), constant=True)
        bias = self.tensor(f"{name}/bias", (channels,), constant=True)
        out = (batch, -(-height // stride), -(-width // stride), channels)
        return self.act(self._conv("DEPTHWISE_CONV_2D", [x, kernel, bias], out, stride, act, depthMultiplier=1), act)

    def _conv(self, kind: str, inputs: list[int], out: tuple[int, ...], stride: int, act: bool, **more: int) -> int:
        return self.add(kind, inputs, out, padding=0, strideW=stride, strideH=stride, **more, **self._fused(act))

    def _fused(self, act: bool) -> dict[str, int]:
        return {"fusedActivationFunction": FUSED.get(self.config.activation, 0) if act else 0}

    def act(self, x: int, act: bool = True) -> int:
        """Return a tensor behind an activation that the operation before it cannot do itself."""
        if not act or self.config.activation in FUSED:
            return x
        if self.config.activation == "hswish":
            return self.add("HARD_SWISH", [x], self.shape(x))
        gate = self.add("LOGISTIC", [x], self.shape(x))
        return self.add("MUL", [x, gate], self.shape(x), fusedActivationFunction=0)

    def sampled(self, x: int, height: int, width: int) -> int:
        batch, rows, columns, channels = self.shape(x)
        out = (batch, height, width, channels)
        if (rows, columns) == (height, width):
            return x
        if rows < height:
            size = self.tensor("size", (2,), "INT32", constant=True)
            return self.add("RESIZE_NEAREST_NEIGHBOR", [x, size], out, alignCorners=False, halfPixelCenters=False)
        stride = (rows - 1) // height + 1
        pool = {"strideW": stride, "strideH": stride, "filterWidth": stride + 1, "filterHeight": stride + 1}
        return self.add("MAX_POOL_2D", [x], out, padding=0, fusedActivationFunction=0, **pool)


def listing_of(config: EfficientDetConfig, detects: bool = False) -> Listing:
    """Return the graph of a config with separable convolutions, for images of its size."""
    graph = Graph(config)
    image = graph.tensor("images", (1, *config.image_size, 3))
    features = _backbone(graph, image)
    outputs = _heads(graph, _pyramid(graph, features))
    if detects:
        outputs = _detections(graph, outputs)
    named = [(f"output_{number}", index) for number, index in enumerate(outputs)]
    return Listing(graph.tensors, graph.operations, [image], outputs, "predict", named)


def _backbone(graph: Graph, image: int) -> dict[int, int]:
    name = graph.config.backbone
    stem = graph.config.blocks[0].in_channels
    x, features = graph.conv(image, f"{name}/stem/conv2d/Conv2D", stem, 3, 2, act=True), {}
    for block in graph.config.blocks:
        scope, start = f"{name}/blocks_{block.flat}", x
        if block.form == INVERTED:
            x = graph.conv(x, f"{scope}/conv2d/Conv2D", block.mid_channels, act=True)
        x = graph.depthwise(x, f"{scope}/depthwise_conv2d/depthwise", block.kernel_size, block.stride, act=True)
        if block.squeeze_excite_channels:
            axes = graph.tensor("axes", (2,), "INT32", constant=True)
            mean = graph.add("MEAN", [x, axes], (1, 1, 1, block.mid_channels))
            small = graph.conv(mean, f"{scope}/se/conv2d/Conv2D", block.squeeze_excite_channels, act=True)
            wide = graph.conv(small, f"{scope}/se/conv2d_1/Conv2D", block.mid_channels)
            gate = graph.add("LOGISTIC", [wide], graph.shape(wide))
            x = graph.add("MUL", [gate, x], graph.shape(x), fusedActivationFunction=0)
        x = graph.conv(x, f"{scope}/conv2d{'_1' if block.form == INVERTED else ''}/Conv2D", block.out_channels)
        if block.stride == 1 and block.in_channels == block.out_channels:
            x = graph.add("ADD", [x, start], graph.shape(x), fusedActivationFunction=0)
        features[{8: 3, 4: 2, 2: 1, 16: 4, 32: 5}[round(graph.config.image_size[0] / graph.shape(x)[1])]] = x
    return features


def _pyramid(graph: Graph, backbone: dict[int, int]) -> list[int]:
    config, sizes = graph.config, graph.config.feature_sizes()
    known = [backbone[level] for level in config.levels if level in backbone]
    for level in config.levels:
        if level > 5:
            x = known[-1]
            if config.conv_after_downsample:
                x = graph.sampled(x, *sizes[level])
            if graph.shape(x)[3] != config.fpn_channels:
                x = graph.conv(x, "resample_p6/conv2d/Conv2D", config.fpn_channels)
            known.append(graph.sampled(x, *sizes[level]))
    features = known
    for node in config.nodes:
        if node.index == 0:
            known = list(features)
        known.append(_node(graph, node, known, sizes[node.level]))
        if node.index == len(config.cell) - 1:
            features = [known[offset] for offset in last_nodes(config.cell, config.levels)]
    return features


def _node(graph: Graph, node: Node, known: list[int], size: tuple[int, int]) -> int:
    config, scope = graph.config, f"fpn_cells/cell_{node.cell}/fnode{node.index}"
    terms = [_input(graph, scope, node, item, known[item.offset], size) for item in node.inputs]
    total = terms[0]
    for number, term in enumerate(terms[1:], start=1):
        is_last = number == len(terms) - 1 and not config.conv_bn_act_pattern
        total = graph.add("ADD", [total, term], graph.shape(total), **graph._fused(is_last))
    x = total if config.conv_bn_act_pattern else graph.act(total)
    name = f"{scope}/op_after_combine{node.feature}/conv/separable_conv2d"
    return graph.conv(
        graph.depthwise(x, f"{name}/depthwise"), name, config.fpn_channels, act=config.conv_bn_act_pattern
    )


def _input(graph: Graph, scope: str, node: Node, item: NodeInput, x: int, size: tuple[int, int]) -> int:
    config, is_still = graph.config, graph.shape(x)[1:3] == size
    is_weighted = config.fusion != "sum"
    if config.conv_after_downsample:
        x, is_still = graph.sampled(x, *size), True
    if item.needs_conv:
        folds = f"{scope}/truediv;{scope}/add;{scope}/mul;" if is_weighted and is_still else ""
        name = f"{folds}{scope}/resample_{item.position}_{item.offset}_{node.feature}/conv2d/Conv2D"
        x = graph.conv(x, name, config.fpn_channels)
        is_weighted = is_weighted and not folds
    x = graph.sampled(x, *size)
    if not is_weighted:
        return x
    shape = (config.fpn_channels,) if config.fusion.startswith("channel_") else ()
    for name in (f"{scope}/Relu{f'_{item.position}' if item.position else ''}/ReadVariableOp", f"{scope}/truediv"):
        x = graph.add("MUL", [x, graph.tensor(name, shape, constant=True)], graph.shape(x), fusedActivationFunction=0)
    return x


def _heads(graph: Graph, features: list[int]) -> list[int]:
    config, outputs = graph.config, list[int]()
    for head, per_anchor in (("class", config.num_classes), ("box", 4)):
        for number, x in enumerate(features):
            end = f"_{number}" if number else ""
            for repeat in range(config.head_repeats):
                name, start = f"{head}_net/{head}-{repeat}/separable_conv2d{end}", x
                x = graph.conv(graph.depthwise(x, f"{name}/depthwise"), name, config.fpn_channels, act=True)
                if repeat and config.survival_prob:
                    x = graph.add("ADD", [x, start], graph.shape(x), fusedActivationFunction=0)
            name = f"{head}_net/{head}-predict/separable_conv2d{end}"
            channels = config.anchors_per_location * per_anchor
            outputs.append(graph.conv(graph.depthwise(x, f"{name}/depthwise"), name, channels))
    return outputs


def _detections(graph: Graph, outputs: list[int]) -> list[int]:
    config, half = graph.config, len(outputs) // 2
    joined = []
    for values, per_anchor in ((outputs[:half], config.num_classes), (outputs[half:], 4)):
        rows = []
        for x in values:
            shape = graph.tensor("shape", (3,), "INT32", constant=True)
            count = graph.shape(x)[1] * graph.shape(x)[2] * config.anchors_per_location
            rows.append(graph.add("RESHAPE", [x, shape], (1, count, per_anchor)))
        total = sum(graph.shape(row)[1] for row in rows)
        joined.append(graph.add("CONCATENATION", rows, (1, total, per_anchor), axis=1, fusedActivationFunction=0))
    scores = graph.add("LOGISTIC", [joined[0]], graph.shape(joined[0]))
    anchors = graph.tensor("stack", (graph.shape(scores)[1], 4), constant=True)
    ends = [
        graph.tensor(f"detections_{number}", shape)
        for number, shape in enumerate(((1, 100, 4), (1, 100), (1, 100), (1,)))
    ]
    options = {**OPTIONS, "num_classes": config.num_classes}
    graph.operations.append(Row(DETECTION, inputs=(joined[1], scores, anchors), outputs=tuple(ends), options=options))
    return ends
