"""TensorFlow Lite's `.tflite`, written from the model itself; see `export.tflite`."""

from __future__ import annotations

from pathlib import Path

from effdet_torch.export.tflite.build.network import build_graph
from effdet_torch.export.tflite.float16 import with_half_constants
from effdet_torch.export.writers.program import Job, Written
from effdet_torch.file_format import METADATA_KEY


def write_tflite(job: Job, path: Path) -> Written:
    """Write one file.

    Raises:
        ConfigError: The model has a part that such a file cannot hold.
        EffdetError: A constant is too large for float16.
    """
    from effdet_torch.export.tflite.serialize import serialize  # an extra

    graph = build_graph(job.model, job.document.config, job.document.interface)
    if job.document.interface.precision == "float16":
        graph = with_half_constants(graph)
    graph.metadata[METADATA_KEY] = job.document.to_json().encode()
    path.write_bytes(serialize(graph))
    return [path]
