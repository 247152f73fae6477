"""Write a checkpoint with its `.meta` as TF1 does: a graph with the official node names, raw and EMA copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig
from verify.reference.base import Tap, import_tensorflow
from verify.reference.network import Forward
from verify.subjects.references import config_hparams

EMA = "/ExponentialMovingAverage"


def write_checkpoint(
    prefix: Path,
    config: EfficientDetConfig,
    raw: Mapping[str, NDArray[Any]],
    ema: Mapping[str, NDArray[Any]],
    *,
    resource_variables: bool = True,
) -> None:
    """Write PREFIX.index, PREFIX.data-... and PREFIX.meta."""
    tf = import_tensorflow()
    values = {**raw, **{name + EMA: value for name, value in ema.items()}}
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )
    with tf.Graph().as_default(), tf.compat.v1.variable_scope("", use_resource=resource_variables):
        images = tf.compat.v1.placeholder(tf.float32, (1, *config.image_size, 3), name="input")
        variables = {name: tf.compat.v1.get_variable(name, value.shape) for name, value in raw.items()}
        names = _OfficialNames(tf, config)
        for tap in Forward(tf, config_hparams(config), variables, "float32")(images):
            names.add(tap)
        tf.compat.v1.train.Saver().export_meta_graph(f"{prefix}.meta")


def edit_graph(source: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """Write a copy of a `.meta` file with a changed GraphDef."""
    meta = import_tensorflow().compat.v1.MetaGraphDef.FromString(source.read_bytes())
    change(meta.graph_def)
    target.write_bytes(meta.SerializeToString())
    return target


class _OfficialNames:
    """Gives the layers' outputs the names that they have in the official graph."""

    def __init__(self, tf: Any, config: EfficientDetConfig) -> None:
        self._tf, self._config = tf, config

    def add(self, tap: Tap) -> None:
        """Add nodes that carry a layer's output under its official name."""
        tf, parts = self._tf, tap.scope.split("/")
        if parts[-1] == "stem" or (parts[0].endswith("_net") and tap.scope.endswith("-act")):
            scope = tap.scope if parts[-1] == "stem" else parts[0]
            self._activation(f"{scope}/", tap)
        elif parts[-1].startswith("blocks_"):
            residual = tap.inputs[0].shape == tap.output.shape
            if not residual:  # the official block ends in an identity, not the first one of its name
                tf.identity(tf.zeros_like(tap.output), f"{tap.scope}/Identity")
            tf.identity(tap.output, f"{tap.scope}/Add" if residual else f"{tap.scope}/Identity_1")
        elif "op_after_combine" in parts[-1]:
            tf.identity(tap.output, f"{tap.scope}/bn/FusedBatchNormV3")
        elif tap.level is not None and tap.scope.endswith("-predict"):
            suffix = f"_{tap.level - 3}" if tap.level > 3 else ""
            tf.identity(tap.output, f"{tap.scope}{suffix}/BiasAdd")

    def _activation(self, scope: str, tap: Tap) -> None:
        tf = self._tf
        with tf.name_scope(scope):
            if self._config.activation == "swish":
                tf.raw_ops.IdentityN(input=[tap.output, tap.inputs[0]], name="IdentityN")
            else:
                tf.nn.relu6(tap.output, "Relu6")
