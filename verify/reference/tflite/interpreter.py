"""A TensorFlow Lite file as a reference: its own interpreter runs it, with its own arithmetic.

The caller knows where the outputs of the network are in the graph, so it does not matter what they are called, nor
whether the file makes detections of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from effdet_torch.errors import install_command
from verify.errors import GraphError, InputSizeError, MissingDependencyError
from verify.reference.base import HeadOutputs, Precision, Reference, Tap

COARSER: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class TfliteOutline:
    """Where the network is in a file.

    Attributes:
        predictions: {"class" or "box": {level: tensor}}.
        detections: tensors with boxes (1, N, 4), classes, scores and their number; () if the file makes none.
        image_size: (height, width).
        precision: in which it computes.
    """

    predictions: Mapping[str, Mapping[int, int]]
    detections: tuple[int, ...]
    image_size: tuple[int, int]
    precision: Precision = "float32"


class TfliteReference(Reference):
    """A file, run by `ai-edge-litert`. Its taps are the predictions; their inputs are not shown.

    Args:
        path: the file.
        outline: where its outputs are.

    Attributes:
        name: of the file.
        image_size: (height, width) that it was built for.
        notes: what the user should know of the run.

    Raises:
        MissingDependencyError: `ai-edge-litert` is not installed.
        GraphError: The interpreter refuses the file.
    """

    def __init__(self, path: Path, outline: TfliteOutline) -> None:
        self.name, self.image_size = path.name, outline.image_size
        self.notes: tuple[str, ...] = ()
        self.precision, self._outline = outline.precision, outline
        try:
            from ai_edge_litert import interpreter as litert
        except ImportError as error:
            raise MissingDependencyError(
                f"a TensorFlow Lite file runs in ai-edge-litert ({error}): {install_command('litert')}"
            ) from error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # keeping all tensors takes memory
                self._interpreter = litert.Interpreter(
                    str(path),
                    num_threads=1,
                    experimental_preserve_all_tensors=True,
                    # A delegate computes several layers at once, and keeps nothing in between.
                    experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                )
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise GraphError(f"{path.name} does not run: {error}") from error

    def taps(self, images: NDArray[Any]) -> Iterator[Tap]:
        """Run the file and yield the predictions; see `Reference.taps`."""
        if images.shape != (1, *self.image_size, 3):
            raise InputSizeError(
                f"images have shape {images.shape}; {self.name} was built for {(1, *self.image_size, 3)}: give one "
                "image of that size"
            )
        row = self._input()
        self._interpreter.set_tensor(row["index"], _coded(images, row))
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise GraphError(f"{self.name} does not run: {error}") from error
        for head, levels in self._outline.predictions.items():
            for level, index in levels.items():
                yield Tap(f"{head}_net/{head}-predict", level, (), self._values(index))

    def representable(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return images (1, H, W, 3) as the file's input can hold them."""
        row = self._input()
        scale, zero = row["quantization"]
        codes = _coded(images, row)
        return images if codes.dtype.kind == "f" else np.asarray((codes.astype(np.float64) - zero) * scale, np.float32)

    def _input(self) -> dict[str, Any]:
        (row,) = self._interpreter.get_input_details()
        return dict(row)

    def compared_with(self, metadata: Mapping[str, Any], is_its_source: bool) -> None:
        """Take the coarser precision of this file and of that which a model was made from, and say what follows.

        Args:
            metadata: of the model.
            is_its_source: whether the model was made from this file.
        """
        if not is_its_source:
            other = metadata.get("source", {}).get("precision", "float32")
            self.precision = max(self.precision, other, key=lambda name: COARSER.index(name) if name in COARSER else 0)
            self.notes = (
                "The model was not made from this file, whose batch norms are folded: only outputs are compared, not "
                "tensors and layers.",
            )

    @property
    def detects(self) -> bool:
        """Whether the file makes detections."""
        return bool(self._outline.detections)

    def last_outputs(self) -> HeadOutputs:
        """Return the outputs of the last run."""
        classes, boxes = (
            {level: self._values(index) for level, index in self._outline.predictions[head].items()}
            for head in ("class", "box")
        )
        return HeadOutputs(classes, boxes)

    def detections(self) -> tuple[NDArray[Any], ...]:
        """Return boxes (N, 4) as (ymin, xmin, ymax, xmax) divided by the image's size, classes from 0, and scores."""
        boxes, classes, scores, count = (self._interpreter.get_tensor(index) for index in self._outline.detections)
        found = int(count.reshape(-1)[0])
        return boxes[0, :found], classes[0, :found], scores[0, :found]

    def describe(self) -> dict[str, str]:
        """Return name, version and settings."""
        from importlib.metadata import version

        return {
            "name": f"TensorFlow Lite ({self.name})",
            "ai-edge-litert": version("ai-edge-litert"),
            "dtype": "as in the file",
            "device": "CPU",
            "image size": "{}x{} (height x width)".format(*self.image_size),
        }

    def _values(self, index: int) -> NDArray[np.float32]:
        """Return a tensor of the last run as real numbers."""
        values = self._interpreter.get_tensor(index)
        scale, zero = next(
            row["quantization"] for row in self._interpreter.get_tensor_details() if row["index"] == index
        )
        real = values if values.dtype.kind == "f" else (values.astype(np.float64) - zero) * scale
        return np.asarray(real, np.float32)


def _coded(images: NDArray[Any], row: Mapping[str, Any]) -> NDArray[Any]:
    """Return images in the input's number format."""
    dtype = np.dtype(row["dtype"])
    if dtype.kind == "f":
        return images.astype(dtype)
    scale, zero = row["quantization"]
    limits = np.iinfo(dtype)
    codes: NDArray[Any] = np.clip(np.round(images / (scale or 1) + zero), limits.min, limits.max).astype(dtype)
    return codes
