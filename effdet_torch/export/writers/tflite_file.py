"""TensorFlow Lite's `.tflite`, written from the model itself; see `export.tflite`."""

from __future__ import annotations

from pathlib import Path

from effdet_torch.export.tflite.build.network import build_graph
from effdet_torch.export.tflite.float16 import with_half_constants
from effdet_torch.export.tflite.graph import Graph
from effdet_torch.export.writers.program import Job, Written
from effdet_torch.file_format import METADATA_KEY


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
    from effdet_torch.export.tflite.calibrate import calibrate
    from effdet_torch.export.tflite.quantize import quantize, require_quantizable
    from effdet_torch.export.tflite.scales import of_pixels

    require_quantizable(graph)  # before the images are read
    image = of_pixels(job.document.config)
    return quantize(graph, calibrate(graph, (pixels.transpose(0, 2, 3, 1) for pixels in job.calibration)), image)


# Precision -> what it makes of a graph in float32.
PRECISIONS = {
    "float32": lambda graph, _: graph,
    "float16": lambda graph, _: with_half_constants(graph),
    "int8": _quantized,
}
