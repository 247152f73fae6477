"""TensorFlow Lite's `.tflite`, written from the model itself; see `export.tflite`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from effdet_torch.engines.file_engine import Array
from effdet_torch.errors import UsageError
from effdet_torch.export.detector import Normalization
from effdet_torch.export.tflite.build.network import build_graph
from effdet_torch.export.tflite.float16 import with_half_constants
from effdet_torch.export.tflite.graph import Graph
from effdet_torch.export.writers.program import Job, Written
from effdet_torch.file_format import METADATA_KEY

LOG = logging.getLogger("effdet")
LARGEST_LOSS = 0.3  # 0.11 from one photo, 0.1 from noise, 0.7 from one grey image, which leaves no detections


def write_tflite(job: Job, path: Path) -> Written:
    """Write one file.

    Raises:
        ConfigError: The model has a part that such a file cannot hold.
        EffdetError: A constant is too large for float16, or a tensor cannot be quantised.
    """
    # An extra has what these import.
    from effdet_torch.export.tflite.serialize import serialize
    from effdet_torch.export.tflite.task_metadata import TASK_METADATA, task_metadata, with_labels

    graph = PRECISIONS[job.document.interface.precision](
        build_graph(job.model, job.document.config, job.document.interface), job
    )
    graph.metadata[METADATA_KEY] = job.document.to_json().encode()
    graph.metadata[TASK_METADATA] = task_metadata(job.document, graph.output_names)
    path.write_bytes(with_labels(serialize(graph), job.document))
    return [path]


def _quantized(graph: Graph, job: Job) -> Graph:
    from effdet_torch.export.tflite.calibrate import calibrate, largest_loss, seeded_picture
    from effdet_torch.export.tflite.quantize import quantize, require_quantizable
    from effdet_torch.export.tflite.scales import of_pixels

    require_quantizable(graph)  # before the images are read
    image = of_pixels(job.document.config)
    ranges = calibrate(graph, _images(job))
    picture = Normalization(job.document.config)(torch.from_numpy(seeded_picture(*job.document.config.image_size)))
    if (loss := largest_loss(graph, ranges, _channels_last(picture.numpy()))) > LARGEST_LOSS:
        LOG.warning(
            "the images to calibrate with have little content: for a picture with the contrast of a photo, their "
            "ranges cut off %.0f%% of a tensor (rms), and the int8 file would miss most objects. Calibrate with photos "
            "like those that the file will see",
            100 * loss,
        )
    return quantize(graph, ranges, image)


def _images(job: Job) -> Iterator[Array]:
    """Yield the images to calibrate with as the graph takes them, (1, H, W, 3).

    Raises:
        UsageError: One is something else than the network takes.
    """
    shape = (1, 3, *job.document.config.image_size)
    for number, pixels in enumerate(job.calibration):
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.float32 or pixels.shape != shape:
            kind = type(pixels).__name__
            found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else f"of type {kind}"
            raise UsageError(
                f"image {number} of calibration is {found}; expected an array of float32 {shape}, normalised, as "
                "CalibrationImages gives them"
            )
        yield _channels_last(pixels)


def _channels_last(pixels: Array) -> Array:
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


# Precision -> what it makes of a graph in float32.
PRECISIONS = {
    "float32": lambda graph, _: graph,
    "float16": lambda graph, _: with_half_constants(graph),
    "int8": _quantized,
}
