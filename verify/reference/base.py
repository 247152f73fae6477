"""What a TensorFlow reference looks like: a model that yields its layers, one after another, as NHWC arrays."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from verify.errors import MissingDependencyError

LayerKey = tuple[str, int | None]


def import_tensorflow() -> Any:
    """Import TensorFlow for repeatable results on the CPU and return the module.

    A graphics card stays free for PyTorch: it is hidden from TensorFlow only, not from the process.

    Raises:
        MissingDependencyError: TensorFlow is not installed.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with warnings.catch_warnings(), nullcontext() if "tensorflow" in sys.modules else uncollected():
            warnings.simplefilter("ignore")  # deprecations inside TensorFlow's own imports
            # Both bring an LLVM; loaded after TensorFlow's, triton's (of PyTorch) would end the process.
            with suppress(ImportError):
                import triton  # noqa: F401
            import tensorflow as tf
    except ImportError as error:
        raise MissingDependencyError(
            f"the TensorFlow reference needs TensorFlow ({error}): run pip install 'effdet-convert[tf]'"
        ) from error
    if tf.config.get_visible_devices("GPU"):
        tf.config.set_visible_devices([], "GPU")
    return tf


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep what is imported out of garbage collections, which would walk a million objects that are never freed."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True)
class Tap:
    """One layer while it runs: enough to compare a PyTorch layer, alone or in its place.

    Attributes:
        scope: TensorFlow variable scope. Layers without variables are called `X-act` (activation after X),
            `fpn_cells/cell_C/fnodeJ/fuse` (weighted sum) and `resample_...` (pool or nearest neighbour).
        level: pyramid level where one layer serves several (head convolutions), else None.
        inputs: NHWC, what the layer was given; empty if unknown.
        output: NHWC; of a convolution with its bias, before the batch norm; of a block, BiFPN node or resampling
            the last thing it computes.
        redundant_bias: (C,) the bias between a convolution and its batch norm. It is in the convolution's output and
            the batch norm's input; a PyTorch model without redundant biases has neither. None elsewhere.
    """

    scope: str
    level: int | None
    inputs: tuple[NDArray[Any], ...]
    output: NDArray[Any]
    redundant_bias: NDArray[Any] | None = None

    @property
    def key(self) -> LayerKey:
        """What identifies the layer among all taps of a run."""
        return self.scope, self.level


@dataclass(frozen=True)
class HeadOutputs:
    """Both heads per level: `class_logits` (B, H, W, anchors * classes), `box_deltas` (B, H, W, anchors * 4)."""

    class_logits: dict[int, NDArray[Any]]
    box_deltas: dict[int, NDArray[Any]]


class Reference(ABC):
    """A TensorFlow model that shows its layers."""

    @abstractmethod
    def taps(self, images: NDArray[Any]) -> Iterator[Tap]:
        """Run the model and yield its layers in execution order; nothing is kept between two of them.

        Args:
            images: (B, H, W, 3), normalised.

        Raises:
            InputSizeError: The images have another shape.
        """

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Return name, TensorFlow version and settings, for a report."""

    def run(self, images: NDArray[Any]) -> dict[LayerKey, NDArray[Any]]:
        """Run the model on (B, H, W, 3) images and return the output of every layer, in execution order."""
        return {tap.key: tap.output for tap in self.taps(images)}

    def outputs(self, images: NDArray[Any]) -> HeadOutputs:
        """Run the model on (B, H, W, 3) images and return what the two heads predict."""
        outputs = HeadOutputs({}, {})
        of_scope = {"class_net/class-predict": outputs.class_logits, "box_net/box-predict": outputs.box_deltas}
        for tap in self.taps(images):
            if tap.level is not None and tap.scope in of_scope:
                of_scope[tap.scope][tap.level] = tap.output
        return outputs
