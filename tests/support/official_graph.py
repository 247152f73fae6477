"""Small EfficientDets in TensorFlow graphs, with the names and operations of the official code, in every variety.

The official code's names were compared with graphs that it wrote; here only the computation is as small as possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verify.reference.base import import_tensorflow

BIFPN = ((5, (2, 3)), (4, (1, 4)), (3, (0, 5)), (4, (1, 5, 6)), (5, (2, 4, 7)), (6, (3, 8)))
LEVELS = (3, 4, 5, 6)
FILTERS, BACKBONE_CHANNELS = 4, 6
STEM = "efficientnet-b0/stem"


@dataclass(frozen=True)
class Network:
    """What can differ; `absolute`: scopes that are entered again keep their names, as in TF2's functions."""

    activation: str = "swish"
    fusion: str = "fastattn"
    has_residuals: bool = False
    pools_first: bool = False
    separable: bool = True
    nodes: Sequence[tuple[int, Sequence[int]]] = BIFPN
    repeats: int = 2
    size: tuple[int, int] = (64, 64)
    is_training: bool = False
    absolute: bool = False


class Builder:
    """Builds a network out of operations; `variable` returns the variable of a name and shape."""

    def __init__(self, network: Network, variable: Callable[[str, tuple[int, ...]], Any]) -> None:
        self.tf, self.network, self.variable = import_tensorflow(), network, variable

    def __call__(self, images: Any) -> list[Any]:
        with self.scope(STEM, is_new=True):
            x = self.activate(self.norm(f"{STEM}/tpu_batch_normalization", self.conv(f"{STEM}/conv2d", images, 3, 2)))
        features = []
        for block in range(4):
            x = self.conv(f"efficientnet-b0/blocks_{block}/conv2d", x, 1, 2, filters=BACKBONE_CHANNELS)
            features.append(x)
        features = features[1:]
        features.append(self.resample("resample_p6", features[-1], LEVELS.index(6)))
        features = self.cell("fpn_cells/cell_0", features)
        return [
            self.head(head, level, x) for head in ("class", "box") for level, x in zip(LEVELS, features, strict=True)
        ]

    @contextmanager
    def scope(self, name: str, is_new: bool = False) -> Iterator[None]:
        """A scope by its full name; inside a head, TF1 numbers what is entered again."""
        repeated = not (self.network.absolute or is_new) and name.startswith(("class_net/", "box_net/"))
        with self.tf.name_scope(name.split("/")[-1] if repeated else f"{name}/"):
            yield

    def conv(self, name: str, x: Any, kernel: int, stride: int = 1, *, filters: int = FILTERS) -> Any:
        with self.scope(name):
            y = self.tf.nn.conv2d(
                x, self.variable(f"{name}/kernel", (kernel, kernel, x.shape[3], filters)), stride, "SAME"
            )
            return self.tf.nn.bias_add(y, self.variable(f"{name}/bias", (filters,)))

    def separable(self, name: str, x: Any, filters: int = FILTERS) -> Any:
        if not self.network.separable:
            return self.conv(name, x, 3, filters=filters)
        with self.scope(name):
            depthwise = self.variable(f"{name}/depthwise_kernel", (3, 3, x.shape[3], 1))
            pointwise = self.variable(f"{name}/pointwise_kernel", (1, 1, x.shape[3], filters))
            y = self.tf.nn.separable_conv2d(x, depthwise, pointwise, [1, 1, 1, 1], "SAME")
            return self.tf.nn.bias_add(y, self.variable(f"{name}/bias", (filters,)))

    def norm(self, name: str, x: Any) -> Any:
        leaves = ("gamma", "beta", "moving_mean", "moving_variance")
        gamma, beta, mean, variance = (self.variable(f"{name}/{leaf}", (x.shape[3],)) for leaf in leaves)
        statistics = {} if self.network.is_training else {"mean": mean, "variance": variance}
        with self.scope(name):
            y, *_ = self.tf.compat.v1.nn.fused_batch_norm(
                x, gamma, beta, **statistics, is_training=self.network.is_training
            )
        return y

    def activate(self, x: Any) -> Any:
        tf = self.tf
        if self.network.activation == "srelu":
            with tf.name_scope("srelu"):
                beta = tf.constant(20.0) ** 4
                logarithm = tf.math.log(tf.where(x > 0.0, beta * x + 1.0, tf.ones_like(x)))
                return tf.where(x > 0.0, x - (1.0 / beta) * logarithm, tf.zeros_like(x))
        return {
            "swish": tf.nn.silu,
            "swish_native": lambda value: value * tf.sigmoid(value),
            "relu6": tf.nn.relu6,
            "relu": tf.nn.relu,
            "hswish": lambda value: value * tf.nn.relu6(value + 3) / 6,
            "mish": lambda value: value * tf.math.tanh(tf.math.softplus(value)),
            "elu": tf.nn.elu,  # none of the official ones
        }[self.network.activation](x)

    def side(self, index: int) -> list[int]:
        return [-(-side // 2 ** LEVELS[index]) for side in self.network.size]

    def resample(self, name: str, x: Any, index: int) -> Any:
        size, found = self.side(index), list(x.shape[1:3])
        with self.scope(name):
            if found[0] > size[0] and self.network.pools_first:
                return self.project(name, self.pool(x, size))
            x = self.project(name, x)
            if found[0] > size[0]:
                return self.pool(x, size)
            return x if found == size else self.tf.raw_ops.ResizeNearestNeighbor(images=x, size=size)

    def project(self, name: str, x: Any) -> Any:
        return x if x.shape[3] == FILTERS else self.norm(f"{name}/bn", self.conv(f"{name}/conv2d", x, 1))

    def pool(self, x: Any, size: list[int]) -> Any:
        with self.tf.name_scope("max_pooling2d"):
            strides = [(old - 1) // new + 1 for old, new in zip(x.shape[1:3], size, strict=True)]
            return self.tf.nn.max_pool2d(x, [stride + 1 for stride in strides], strides, "SAME")

    def cell(self, scope: str, features: Sequence[Any]) -> list[Any]:
        known, last = list(features), dict(enumerate(features))
        for number, (level, offsets) in enumerate(self.network.nodes):
            name, index = f"{scope}/fnode{number}", LEVELS.index(level)
            inputs = [
                self.resample(f"{name}/resample_{place}_{offset}_{len(known)}", known[offset], index)
                for place, offset in enumerate(offsets)
            ]
            with self.scope(name):
                x = self.fuse(name, inputs)
            after = f"{name}/op_after_combine{len(known)}"
            with self.scope(after):
                x = self.activate(x)
            last[index] = self.norm(f"{after}/bn", self.separable(f"{after}/conv", x))
            known.append(last[index])
        return list(last.values())

    def fuse(self, name: str, inputs: Sequence[Any]) -> Any:
        tf, method = self.tf, self.network.fusion.removeprefix("channel_")
        if method == "sum":
            return self.add(inputs)
        shape = (FILTERS,) if self.network.fusion.startswith("channel_") else ()
        names = [f"{name}/WSM" + (f"_{place}" if place else "") for place in range(len(inputs))]
        weights = [tf.convert_to_tensor(self.variable(each, shape)) for each in names]
        if method == "attn":
            return tf.reduce_sum(tf.stack(inputs, -1) * tf.nn.softmax(tf.stack(weights, -1), axis=-1), -1)
        if method == "product":  # none of the official ones
            return inputs[0] * weights[0] * inputs[-1]
        weights = [tf.nn.relu(weight) for weight in weights]
        total = self.add(weights)
        return self.add([x * weight / (total + 1e-4) for x, weight in zip(inputs, weights, strict=True)])

    def add(self, values: Sequence[Any]) -> Any:
        with self.tf.name_scope("add_n"):
            total = values[0]
            for value in values[1:]:
                total = total + value
            return total

    def head(self, head: str, level: int, x: Any) -> Any:
        scope = f"{head}_net"
        with self.scope(scope):
            for repeat in range(self.network.repeats):
                before = x
                x = self.separable(f"{scope}/{head}-{repeat}", x)
                x = self.activate(self.norm(f"{scope}/{head}-{repeat}-bn-{level}", x))
                if self.network.has_residuals and repeat:
                    x = self.drop(x) + before
            return self.separable(f"{scope}/{head}-predict", x, filters=9)

    def drop(self, x: Any) -> Any:
        """In training, leave out the branch of some images."""
        if not self.network.is_training:
            return x
        return x / 0.8 * self.tf.floor(0.8 + self.tf.random.uniform([self.tf.shape(x)[0], 1, 1, 1]))


def write_meta(path: Path, network: Network) -> Path:
    """Write a MetaGraphDef of TF1; a training graph has data, gradients, averages and an optimizer."""
    v1 = import_tensorflow().compat.v1
    with import_tensorflow().Graph().as_default():
        _build_tf1(network)
        meta = v1.train.export_meta_graph()
    path.write_bytes(meta.SerializeToString())
    return path


def write_frozen(path: Path, network: Network) -> Path:
    """Write a GraphDef whose variables are constants."""
    tf = import_tensorflow()
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session() as session:
        outputs = _build_tf1(network)
        session.run(v1.global_variables_initializer())
        names = [output.op.name for output in outputs]
        frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), names)
    path.write_bytes(frozen.SerializeToString())
    return path


def write_saved_model(folder: Path, network: Network, anchors: Any = None) -> Path:
    """Write a SavedModel of TF2: the operations lie in functions; a constant of the function is one of the graph."""
    tf = import_tensorflow()
    module = tf.Module()
    variables: dict[str, Any] = {}
    inputs = tf.TensorSpec((1, *network.size, 3), tf.float32, name="images")

    def variable(name: str, shape: tuple[int, ...]) -> Any:
        if name not in variables:
            with tf.init_scope(), tf.compat.v1.name_scope(None):
                variables[name] = tf.Variable(np.ones(shape, np.float32), name=name)
        return variables[name]

    @tf.function(input_signature=[inputs])
    def serve(images: Any) -> dict[str, Any]:
        outputs = {f"output_{place}": x for place, x in enumerate(Builder(network, variable)(images))}
        return outputs if anchors is None else {**outputs, "anchors": tf.constant(anchors) * 1.0}

    serve.get_concrete_function()
    module.serve, module.kept = serve, list(variables.values())
    tf.saved_model.save(module, str(folder), signatures=serve)
    return folder


def _build_tf1(network: Network) -> list[Any]:
    tf = import_tensorflow()
    v1 = tf.compat.v1
    variables: dict[str, Any] = {}

    def variable(name: str, shape: tuple[int, ...]) -> Any:
        if name not in variables:
            variables[name] = v1.get_variable(name, shape, use_resource=True)
        return variables[name]

    shape = (1, *network.size, 3)
    if not network.is_training:
        return Builder(network, variable)(v1.placeholder(tf.float32, shape, name="input"))
    data = v1.data.make_one_shot_iterator(v1.data.Dataset.from_tensors((tf.zeros(shape), tf.zeros(2))))
    outputs = Builder(network, variable)(data.get_next()[0])
    loss = tf.add_n([tf.reduce_sum(output) for output in outputs])
    v1.train.MomentumOptimizer(0.1, 0.9).minimize(loss)
    tf.train.ExponentialMovingAverage(0.9).apply(list(variables.values()))
    return outputs
