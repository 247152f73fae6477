"""The built-in reference: EfficientDet's forward pass in plain `tf.nn` operations, from the original variables.

The proof of parity rests on this file, so it shares nothing with the converter or the PyTorch model: it reads variables
by their TensorFlow names, computes in NHWC, states the architecture a second time, and takes the hyperparameters as
`official` reads them. Where a block expands or a stage begins it sees in the shapes of the variables.

Source: EfficientDet (arXiv:1911.09070); the official code's `efficientdet_keras` and `efficientnet_model`, 2025-03.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from verify.errors import InputSizeError, ReferenceModelError
from verify.reference.base import Reference, Tap, import_tensorflow
from verify.reference.layers import Step, Tensor
from verify.reference.object_detection_api.names import Names
from verify.reference.official.hparams import Hparams
from verify.reference.pyramid import Pyramid

STAGE_STRIDES = (1, 2, 2, 2, 1, 2, 1)


class TensorFlowReference(Reference):
    """The built-in reference.

    Args:
        hparams: what to compute; `image_size` is not used, any size runs.
        variables: {TensorFlow variable name: array} of one view, not folded, for example
            "efficientnet-b0/blocks_1/conv2d_1/kernel". Read when needed.
        dtype: what it computes in; "float64" tells rounding from mistakes.
        backbone_only: stop at P5; the variables need not have anything else.
        names: of another code, under which the layers are shown, and what its backbone gives; None: the official ones.

    Raises:
        MissingDependencyError: TensorFlow is not installed.
        ReferenceModelError: While running: a variable is missing or does not fit the hyperparameters.
        InputSizeError: While running: see `Reference.taps`; or so small that a level could halve one side only.
    """

    def __init__(
        self,
        hparams: Hparams,
        variables: Mapping[str, NDArray[Any]],
        dtype: Literal["float32", "float64"] = "float32",
        backbone_only: bool = False,
        names: Names | None = None,
    ) -> None:
        self._tf = import_tensorflow()
        self._dtype, self._backbone_only = dtype, backbone_only
        self._forward = Forward(self._tf, hparams, variables, dtype)
        self._scope: Callable[[str], str] = str
        if names is not None:
            self._scope, self._forward.feature_blocks = names.scope, names.feature_blocks
            self.head_scopes = (names.scope(self.head_scopes[0]), names.scope(self.head_scopes[1]))
        # Whether the heads add the input of a repeat to its output.
        detects = not backbone_only and "object_detection" in hparams.heads
        self.has_residual_heads = detects and hparams.survival_prob and hparams.box_class_repeats > 1

    def taps(self, images: NDArray[Any]) -> Iterator[Tap]:
        """Run eagerly and yield every layer as arrays of the reference's dtype; see `Reference.taps`."""
        if images.ndim != 4 or images.shape[3] != 3:
            raise InputSizeError(f"images have shape {images.shape}; expected (batch, height, width, 3)")
        try:
            run = self._forward.backbone if self._backbone_only else self._forward
            for tap in run(self._tf.constant(images, self._dtype)):
                bias = None if tap.redundant_bias is None else _to_array(tap.redundant_bias)
                inputs = tuple(_to_array(x) for x in tap.inputs)
                yield Tap(self._scope(tap.scope), tap.level, inputs, _to_array(tap.output), bias)
        except self._tf.errors.InvalidArgumentError as error:
            raise ReferenceModelError(
                f"TensorFlow refuses a layer: {error}. The variables do not fit the variant: choose the right one."
            ) from error

    def describe(self) -> dict[str, str]:
        """Return name, TensorFlow version and settings."""
        return {
            "name": "built-in TensorFlow reference (tf.nn)",
            "tensorflow": self._tf.__version__,
            "dtype": self._dtype,
            "device": "CPU",
            "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", ""),
        }


def _to_array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor's own memory, which cannot be written: layers are large, and a copy takes as long as a layer."""
    return np.asarray(memoryview(tensor))


class Forward(Pyramid):
    """The network: layers in order; call it with a tensor of images (B, H, W, 3) to run it.

    Attributes:
        feature_blocks: numbers of the blocks whose outputs are P1 to P5; None: the last block before each stride, and
            the very last one.
    """

    feature_blocks: Sequence[int] | None = None

    def __call__(self, images: Tensor) -> Generator[Tap, None, None]:
        """Yield every layer in execution order."""
        self._check_head_channels()
        hparams = self._hparams
        features = yield from self.backbone(images)
        for level in range(6, hparams.max_level + 1):
            features.append((yield from self._coarser(features[-1], level)))
        for cell in range(hparams.fpn_cell_repeats):
            features = yield from self._cell(f"fpn_cells/cell_{cell}", features)
        for head in ("class", "box") if "object_detection" in hparams.heads else ():
            for level, feature in zip(hparams.levels, features, strict=True):
                yield from self._head(head, level, feature)
        if "segmentation" in hparams.heads:
            yield from self._segmentation(features)

    def backbone(self, images: Tensor) -> Step:
        """Yield the layers of the backbone, and return the features from `min_level` (P3) to P5."""
        scope = self._hparams.backbone_name
        x = yield from self._conv(f"{scope}/stem/conv2d", images, stride=2)
        x = yield from self._batch_norm(f"{scope}/stem/tpu_batch_normalization", x)
        x = yield from self._activation(f"{scope}/stem/tpu_batch_normalization", x)
        yield Tap(f"{scope}/stem", None, (images,), x)
        features, strides = [], self._block_strides()
        ends = [flat - 1 for flat, stride in enumerate(strides) if stride == 2] + [len(strides) - 1]
        for flat, stride in enumerate(strides):
            inputs, block = x, f"{scope}/blocks_{flat}"
            x = yield from self._block(block, inputs, stride)
            yield Tap(block, None, (inputs,), x)
            if flat in (ends if self.feature_blocks is None else self.feature_blocks):
                features.append(x)
        return features[self._hparams.min_level - 1 :]

    def _block_strides(self) -> list[int]:
        """Return the stride of every block: a stage begins where a block changes the number of channels."""
        scope, strides, stages = self._hparams.backbone_name, list[int](), iter(STAGE_STRIDES)
        channels = self._shape(f"{scope}/stem/conv2d/kernel")[3]
        while f"{scope}/blocks_{len(strides)}/conv2d/kernel" in self._variables:
            block = f"{scope}/blocks_{len(strides)}"
            project = "conv2d_1" if self._expands(block) else "conv2d"
            out_channels = self._shape(f"{block}/{project}/kernel")[3]
            strides.append(1 if out_channels == channels else next(stages, 0))
            channels = out_channels
        if 0 in strides or next(stages, None) is not None:
            raise ReferenceModelError(
                f"{scope} has {len(strides)} blocks that do not form {len(STAGE_STRIDES)} stages; a block is "
                "missing or has other channels: compare the checkpoint with the variant"
            )
        return strides

    def _expands(self, block: str) -> bool:
        return f"{block}/conv2d_1/kernel" in self._variables

    def _block(self, scope: str, inputs: Tensor, stride: int) -> Step:
        """Inverted residual block; convolutions and batch norms are numbered by position, not by role."""
        x, suffixes = inputs, ["", "_1", "_2"]
        if self._expands(scope):
            x = yield from self._conv(f"{scope}/conv2d", x)
            norm = f"{scope}/tpu_batch_normalization{suffixes.pop(0)}"
            x = yield from self._batch_norm(norm, x)
            x = yield from self._activation(norm, x)
        x = yield from self._depthwise(f"{scope}/depthwise_conv2d", x, stride)
        norm = f"{scope}/tpu_batch_normalization{suffixes.pop(0)}"
        x = yield from self._batch_norm(norm, x)
        x = yield from self._activation(norm, x)
        if "-lite" not in self._hparams.backbone_name:
            x = yield from self._squeeze_excite(f"{scope}/se", x)
        x = yield from self._conv(f"{scope}/conv2d_1" if self._expands(scope) else f"{scope}/conv2d", x)
        x = yield from self._batch_norm(f"{scope}/tpu_batch_normalization{suffixes.pop(0)}", x)
        return self._tf.add(x, inputs) if stride == 1 and x.shape[3] == inputs.shape[3] else x

    def _squeeze_excite(self, scope: str, inputs: Tensor) -> Step:
        x = self._tf.reduce_mean(inputs, [1, 2], keepdims=True)
        x = yield from self._conv(f"{scope}/conv2d", x, bias=True)
        x = yield from self._activation(f"{scope}/conv2d", x)
        x = yield from self._conv(f"{scope}/conv2d_1", x, bias=True)
        x = self._tf.sigmoid(x) * inputs
        yield Tap(scope, None, (inputs,), x)
        return x

    def _head(self, head: str, level: int, x: Tensor) -> Step:
        """Run one head on one level: convolutions serve all levels, each level has its own batch norms."""
        for repeat in range(self._hparams.box_class_repeats):
            conv, original = f"{head}_net/{head}-{repeat}", x
            y = self._conv3x3(conv, x)
            x = yield from self._biased_batch_norm(conv, f"{conv}-bn-{level}", x, y, level)
            x = yield from self._activation(f"{conv}-bn-{level}", x)
            if repeat > 0 and self._hparams.survival_prob:  # what training drops at random is always there afterwards
                inputs, x = (x, original), x + original
                yield Tap(f"{conv}-add", level, inputs, x)
        scope = f"{head}_net/{head}-predict"
        y = self._tf.nn.bias_add(self._conv3x3(scope, x), self._variable(f"{scope}/bias"))
        yield Tap(scope, level, (x,), y)

    def _segmentation(self, features: Sequence[Tensor]) -> Step:
        """Double the coarsest feature, join it with the next finer one, and so on; once more for the classes."""
        x, scope = features[-1], "segmentation_head"
        for number, finer in enumerate(features[-2::-1]):
            x = yield from self._conv_transpose(_numbered(f"{scope}/conv2d_transpose", number), x)
            x = yield from self._batch_norm(f"{scope}/bn_{number}", x)
            x = yield from self._activation(f"{scope}/bn_{number}", x)
            x = self._tf.concat([x, finer], -1)
        last = _numbered(f"{scope}/conv2d_transpose", len(features) - 1)
        yield from self._conv_transpose(last, x, bias=True)

    def _check_head_channels(self) -> None:
        hparams = self._hparams
        expected = dict[str, tuple[int, str]]()
        anchors = hparams.anchors_per_location
        if "object_detection" in hparams.heads:
            for head, per_anchor in (("class", hparams.num_classes), ("box", 4)):
                words = f"{anchors} anchors with {per_anchor} channels each need"
                expected[f"{head}_net/{head}-predict/bias"] = anchors * per_anchor, words
        if "segmentation" in hparams.heads:
            last = _numbered("segmentation_head/conv2d_transpose", len(hparams.levels) - 1)
            expected[f"{last}/bias"] = hparams.seg_num_classes, "the classes of pixels need"
        for name, (channels, words) in expected.items():
            if (found := self._shape(name)) != (channels,):
                raise ReferenceModelError(
                    f"{name} has shape {found}; {words} ({channels},): give the checkpoint's number of classes and "
                    "anchors"
                )


def _numbered(scope: str, number: int) -> str:
    """Return the name that Keras gives a layer by its number in the process."""
    return f"{scope}_{number}" if number else scope
