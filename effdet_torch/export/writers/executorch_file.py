"""ExecuTorch's `.pte`, for processors of phones and computers (XNNPACK)."""

from __future__ import annotations

from pathlib import Path

from effdet_torch.engines.file_engine import quiet
from effdet_torch.export.writers.program import Job, Written, explained, exported_program
from effdet_torch.file_format import METADATA_KEY


def write_executorch(job: Job, path: Path) -> Written:
    """Write one file for the XNNPACK backend.

    Raises:
        EffdetError: The exporter is not installed, or fails.
    """
    with quiet():  # an extra
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    program = exported_program(job)
    with quiet(), explained("ExecuTorch"):
        methods = {METADATA_KEY: job.document.to_json()}
        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()], constant_methods=methods)
        path.write_bytes(edge.to_executorch().buffer)
    return [path]
