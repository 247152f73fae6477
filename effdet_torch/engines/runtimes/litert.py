"""`.tflite` files that effdet-export wrote, with LiteRT (TensorFlow Lite's interpreter), without torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from effdet_torch.cores import usable_cores
from effdet_torch.engines.document import EXPORT_AGAIN, read_document
from effdet_torch.engines.file_engine import (
    Array,
    FileEngine,
    missing_runtime,
    quiet,
    reading,
    require_signature,
    running,
)
from effdet_torch.errors import ModelFileError
from effdet_torch.file_format import METADATA_KEY
from effdet_torch.processing.profiles import CLASS_OFFSET
from effdet_torch.untrusted.files import MAX_MODEL_BYTES, map_file

# Numbers of the signature's outputs, as the official files have them: count, scores, classes, boxes.
DETECTION_OUTPUTS = (3, 1, 2, 0)  # in the order of `document.DETECTIONS`


class LiteRtEngine(FileEngine):
    """See `FileEngine`; images and outputs of the file are (B, H, W, C)."""

    def __init__(self, path: Path) -> None:
        try:
            with quiet():
                from ai_edge_litert import interpreter as litert
        except ImportError as error:
            raise missing_runtime(path, "ai-edge-litert", "litert") from error
        from importlib.metadata import version

        self.runtime, self._lock = f"LiteRT {version('ai-edge-litert')}", Lock()
        with reading(path):
            content = map_file(path, MAX_MODEL_BYTES)
        with running(path, self.runtime):  # here of FlatBuffers: struct.error, IndexError
            stored = stored_document(content)
        super().__init__(path, read_document(path, stored))
        with running(path, self.runtime), quiet(), silent_libraries():
            self._interpreter: Any = litert.Interpreter(str(path), num_threads=usable_cores())
            self._interpreter.allocate_tensors()
            self._runner: Any = self._interpreter.get_signature_runner()
            (self._input,) = self._runner.get_input_details()
            names = list(self._runner.get_output_details())
        order = DETECTION_OUTPUTS if self.profile is not None else range(len(self._names))
        self._order = [f"output_{number}" for number in order]
        require_signature(path, "outputs", sorted(names), sorted(self._order))

    def _as_input(self, pixels: Array) -> Array:
        given = super()._as_input(pixels)
        return given if given.dtype == np.uint8 else np.ascontiguousarray(given.transpose(0, 2, 3, 1))

    def _run(self, pixels: Array) -> list[Array]:
        with running(self.path, self.runtime), self._lock:  # every run writes into the same memory
            found = self._runner(**{self._input: pixels})
        outputs = [np.asarray(found[name]) for name in self._order]
        if self.profile is not None:
            return self._detections(*outputs)
        self._require_shapes(outputs, [(*side, channels) for channels in self._channels() for side in self._sides()])
        return [output.transpose(0, 3, 1, 2) for output in outputs]

    def _detections(self, boxes: Array, scores: Array, classes: Array, count: Array) -> list[Array]:
        """Return detections as `FileEngine.run` does, of boxes (1, M, 4) as (ymin, xmin, ymax, xmax) of 0..1.

        The operation leaves the detections of the image before behind the number that it counts.
        """
        most = scores.shape[-1]
        self._require_shapes([boxes, scores, classes, count], [(most, 4), (most,), (most,), ()])
        height, width = self.config.image_size
        is_new = np.arange(most) < count.astype(np.int64)[:, None]
        # What is left behind may be anything, and would overflow.
        corners = np.where(is_new[..., None], boxes, 0)[..., [1, 0, 3, 2]] * np.array(
            [width, height, width, height], np.float32
        )
        return [
            corners.astype(np.float32),
            np.where(is_new, scores, 0).astype(np.float32),
            np.where(is_new, classes, -CLASS_OFFSET).astype(np.int64) + CLASS_OFFSET,
            count.astype(np.int64),
        ]

    def _require_shapes(self, outputs: Sequence[Array], expected: Sequence[tuple[int, ...]]) -> None:
        """Refuse outputs, (B, ...) float32, of other shapes; all are used as float32.

        Raises:
            ModelFileError: A shape or type is another one.
        """
        batch = self.interface.batch or 1
        for name, output, shape in zip(self._names, outputs, expected, strict=True):
            if output.dtype != np.float32 or output.shape != (batch, *shape):
                raise ModelFileError(
                    f"{self.path} returned {name} as {output.dtype} {output.shape}; expected float32 "
                    f"{(batch, *shape)}. {EXPORT_AGAIN}"
                )

    def _channels(self) -> list[int]:
        return [self.config.anchors_per_location * per_anchor for per_anchor in (self.config.num_classes, 4)]

    def _sides(self) -> list[tuple[int, int]]:
        sizes = self.config.feature_sizes()
        return [sizes[level] for level in self.config.levels]


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Drop what the interpreter's own library prints: which delegate it creates, past Python and every setting."""
    try:
        before = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123, a device
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def stored_document(content: memoryview) -> bytes | None:
    """Return the document among the metadata of a file; None where there is none."""
    from ai_edge_litert import schema_py_generated as schema  # late: the package may be missing

    model = schema.Model.GetRootAs(content, 0)
    for number in range(model.MetadataLength()):
        entry = model.Metadata(number)
        if entry.Name() == METADATA_KEY.encode():
            values = model.Buffers(entry.Buffer()).DataAsNumpy()
            return bytes(values) if isinstance(values, np.ndarray) else None
    return None
