"""Graphs as TensorFlow stores them around a network: `.meta`, SavedModel of TF1 and of TF2, frozen graph.

The network is the built-in reference's, so that a change of it is a graph that computes something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig
from tests.support.reference import config_hparams
from verify.reference.base import Tap, import_tensorflow
from verify.reference.network import Forward
from verify.reference.official.hparams import Hparams

EMA = "/ExponentialMovingAverage"
Arrays = Mapping[str, NDArray[Any]]
Config = EfficientDetConfig | Hparams


class ResidualHeads(Forward):
    """A network whose heads add the input of a repeat to its output, as with `survival_prob`."""

    def _activation(self, scope: str, x: Any) -> Any:
        y = yield from super()._activation(scope, x)
        if scope.startswith(("class_net/", "box_net/")):
            repeat = int(scope.split("/")[1].split("-")[1])
            y = self._before = y + self._before if repeat else y
        return y


def predictions(
    config: Config, variables: Mapping[str, Any], images: Any, network: type[Forward] = Forward
) -> list[Any]:
    """Run a network on tensors and return the outputs of all heads."""
    hparams = config if isinstance(config, Hparams) else config_hparams(config)
    taps: Iterator[Tap] = network(import_tensorflow(), hparams, variables, "float32")(images)
    last = f"segmentation_head/conv2d_transpose_{len(hparams.levels) - 1}"
    return [tap.output for tap in taps if tap.scope.endswith("-predict") or tap.scope == last]


def preprocessed(config: Config, image_arrays: Any) -> Any:
    """Turn one photograph of any size into the network's input, in the graph."""
    tf = import_tensorflow()
    x = (tf.cast(image_arrays[0], tf.float32) - tf.constant(config.mean_rgb)) / tf.constant(config.std_rgb)
    x = tf.image.resize(x, config.image_size)
    return tf.stack([tf.ensure_shape(x, (*config.image_size, 3))])


def build_tf1(
    config: Config,
    variables: Arrays,
    network: type[Forward] = Forward,
    *,
    photograph: bool = False,
    resource: bool = True,
) -> Any:
    """Build a graph in the default one: a placeholder, variables, the network, and one tensor `detections`."""
    tf = import_tensorflow()
    v1 = tf.compat.v1
    if photograph:
        placeholder = v1.placeholder(tf.uint8, (1, None, None, 3), "image_arrays")
        images = preprocessed(config, placeholder)
    else:
        images = placeholder = v1.placeholder(tf.float32, (1, *config.image_size, 3), "input")
    with v1.variable_scope("", use_resource=resource):
        stored = {name: v1.get_variable(name, value.shape) for name, value in variables.items()}
        v1.get_variable("global_step", (), tf.int64, initializer=v1.zeros_initializer())
    outputs = predictions(config, stored, images, network)
    detections = tf.concat([tf.reshape(output, [-1]) for output in outputs], 0, "detections")
    return placeholder, stored, detections


def write_values(prefix: Path, values: Arrays) -> None:
    """Write a checkpoint without a graph."""
    import_tensorflow().raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )


def write_meta(
    prefix: Path, config: Config, raw: Arrays, ema: Arrays, network: type[Forward] = Forward, **options: Any
) -> Path:
    """Write PREFIX.index, PREFIX.data-... and PREFIX.meta: raw and averaged values, the graph of an inference."""
    tf = import_tensorflow()
    write_values(prefix, {**raw, **{name + EMA: value for name, value in ema.items()}})
    with tf.Graph().as_default():
        build_tf1(config, raw, network, **options)
        tf.compat.v1.train.Saver().export_meta_graph(f"{prefix}.meta")
    return prefix


def write_tf1_exports(
    folder: Path, config: Config, variables: Arrays, network: type[Forward] = Forward
) -> tuple[Path, Path]:
    """Write a SavedModel that takes photographs, and its frozen graph."""
    tf = import_tensorflow()
    v1 = tf.compat.v1
    quick = v1.ConfigProto()
    quick.graph_options.rewrite_options.disable_meta_optimizer = True
    values = folder.parent / "values"
    write_values(values, {**variables, "global_step": np.int64(780)})
    with tf.Graph().as_default(), v1.Session(config=quick) as session:
        placeholder, _, detections = build_tf1(config, variables, network, photograph=True)
        v1.train.Saver().restore(session, str(values))
        signature = v1.saved_model.predict_signature_def({"image_arrays": placeholder}, {"detections": detections})
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
        graph = v1.graph_util.convert_variables_to_constants(session, session.graph_def, ["detections"])
    frozen = folder / "efficientdet_frozen.pb"
    frozen.write_bytes(graph.SerializeToString())
    return folder, frozen


def write_tf2_export(
    folder: Path,
    config: Config,
    variables: Arrays,
    network: type[Forward] = Forward,
    *,
    named: Callable[[str], str] = str,
) -> Path:
    """Write a SavedModel whose network lies in functions that call each other; `named` changes names of variables."""
    tf = import_tensorflow()

    class Export(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.stored = [tf.Variable(value, name=named(name)) for name, value in variables.items()]

        @tf.function(autograph=False, input_signature=[tf.TensorSpec((1, *config.image_size, 3), tf.float32, "images")])
        def network(self, images: Any) -> Any:
            stored = dict(zip(variables, self.stored, strict=True))
            return predictions(config, stored, images, network)

        @tf.function(autograph=False, input_signature=[tf.TensorSpec((1, None, None, 3), tf.uint8, "image_arrays")])
        def serve(self, image_arrays: Any) -> Any:
            outputs = self.network(preprocessed(config, image_arrays))
            return {"detections": tf.concat([tf.reshape(output, [-1]) for output in outputs], 0)}

    export = Export()
    tf.saved_model.save(export, str(folder), signatures={"serving_default": export.serve})
    return folder


def edit_graph(source: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """Write a copy of a `.meta` file with a changed GraphDef."""
    meta = import_tensorflow().compat.v1.MetaGraphDef.FromString(source.read_bytes())
    change(meta.graph_def)
    target.write_bytes(meta.SerializeToString())
    return target
