"""What a TensorFlow reference looks like: a model that yields its layers, one after another, as NHWC arrays."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from effdet_torch.errors import install_command
from verify.errors import MissingDependencyError

Precision = Literal["float32", "float16", "int8"]  # coarser from one to the next
LayerKey = tuple[str, int | None]

# What TensorFlow prints while it starts on a healthy machine, before it has read TF_CPP_MIN_LOG_LEVEL: information, and
# complaints about libraries of graphics cards that are absent or loaded already.
START_UP_NOISE = (
    r"WARNING: All log messages before absl::InitializeLog\(\)"
    r"|I\d{4} \d"
    r"|[WE]\d{4} \d.*(call to cuInit|Unable to register cu\w+ factory|computation placer already registered)"
)
FILTER = """
import re, sys
for line in sys.stdin.buffer:
    if not re.match(sys.argv[1].encode(), line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""
FILTER_SECONDS = 5.0  # a process that inherited the pipe may keep the filter alive; it is not waited for any longer


def import_tensorflow() -> Any:
    """Import TensorFlow for repeatable results on the CPU and return the module.

    A graphics card stays free for PyTorch: it is hidden from TensorFlow only, not from the process. Start-up messages
    are left out, unless TF_CPP_MIN_LOG_LEVEL is set or TensorFlow was imported before.

    Raises:
        MissingDependencyError: TensorFlow is not installed.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    with ExitStack() as stack:
        if "tensorflow" not in sys.modules:
            stack.enter_context(uncollected())
            if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:
                os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # errors only
                stack.enter_context(without_start_up_noise())
            # Both bring an LLVM; loaded after TensorFlow's, triton's (of PyTorch) would end the process.
            with suppress(ImportError):
                import triton  # noqa: F401
        tf = _imported()
        if tf.config.get_visible_devices("GPU"):
            tf.config.set_visible_devices([], "GPU")
    return tf


def _imported() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside TensorFlow's own imports
            import tensorflow as tf
    except ImportError as error:
        raise MissingDependencyError(
            f"the TensorFlow reference needs TensorFlow ({error}): {install_command('tf')}"
        ) from error
    return tf


@contextmanager
def without_start_up_noise() -> Iterator[None]:
    """Filter lines that match START_UP_NOISE out of stderr, also of what code in C prints; pass on all others.

    The filter is a process of its own, so that the last words of a TensorFlow that crashes are passed on as well.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # closed by the caller
        yield
        return
    words = [sys.executable, "-I", "-S", "-c", FILTER, START_UP_NOISE]
    # In a session of its own, Ctrl-C reaches only us.
    process = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603
    assert process.stdin is not None
    with process.stdin:
        os.dup2(process.stdin.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        with suppress(subprocess.TimeoutExpired):
            process.wait(FILTER_SECONDS)


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
    """What the heads predict; of heads that are not there nothing.

    Attributes:
        class_logits: per level (B, H, W, anchors * classes).
        box_deltas: per level (B, H, W, anchors * 4).
        mask_logits: (B, H, W, classes of pixels).
    """

    class_logits: dict[int, NDArray[Any]]
    box_deltas: dict[int, NDArray[Any]]
    mask_logits: NDArray[Any] | None = None


class Reference(ABC):
    """A TensorFlow model that shows its layers.

    Attributes:
        head_scopes: of the layers that predict classes and boxes.
        precision: in which it computes where images are float32.
    """

    head_scopes: tuple[str, str] = ("class_net/class-predict", "box_net/box-predict")
    precision: Precision = "float32"

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

    def representable(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return images (B, H, W, 3) as the reference's input can hold them: as they are, unless that has codes."""
        return images

    def run(self, images: NDArray[Any]) -> dict[LayerKey, NDArray[Any]]:
        """Run the model on (B, H, W, 3) images and return the output of every layer, in execution order."""
        return {tap.key: tap.output for tap in self.taps(images)}

    def outputs(self, images: NDArray[Any]) -> HeadOutputs:
        """Run the model on (B, H, W, 3) images and return what the heads predict."""
        of_scope: dict[str, dict[int, NDArray[Any]]] = {scope: {} for scope in self.head_scopes}
        mask_logits = None
        for tap in self.taps(images):
            if tap.level is not None and tap.scope in of_scope:
                of_scope[tap.scope][tap.level] = tap.output
            if tap.scope.startswith("segmentation_head/conv2d_transpose"):
                mask_logits = tap.output  # the last one
        classes, boxes = of_scope.values()
        return HeadOutputs(classes, boxes, mask_logits)
