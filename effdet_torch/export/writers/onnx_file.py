"""`.onnx` files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from effdet_torch.engines.document import INPUT
from effdet_torch.engines.file_engine import quiet
from effdet_torch.export.writers.inner_names import SCOPES, name_inner_outputs
from effdet_torch.export.writers.program import Job, Written, explained, exported_program
from effdet_torch.file_format import METADATA_KEY


def write_onnx(job: Job, path: Path) -> Written:
    """Write one file with all weights in it.

    Raises:
        EffdetError: The exporter fails.
    """
    model = onnx_model(job)
    path.write_bytes(model.SerializeToString())
    return [path]


def onnx_model(job: Job) -> Any:
    """Return an `onnx.ModelProto`; see `write_onnx`."""
    program = exported_program(job)
    names = job.document.interface.output_names(job.document.config)
    with quiet(), explained("torch.onnx"):
        exported = torch.onnx.export(
            program, opset_version=job.opset, input_names=[INPUT], output_names=names, verbose=False
        )
        assert exported is not None
        model = exported.model_proto
    model.producer_name, model.producer_version, model.doc_string = "effdet-convert", "", ""
    model.metadata_props.add(key=METADATA_KEY, value=job.document.to_json())
    name_inner_outputs(model.graph)
    _strip(model.graph)
    return model


def _strip(graph: Any) -> None:
    """Remove what an exporter notes about its own run: stack traces with paths of this machine, among others."""
    for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        kept = [(prop.key, prop.value) for prop in item.metadata_props if prop.key == SCOPES]
        del item.metadata_props[:]
        item.doc_string = ""
        for key, value in kept:
            item.metadata_props.add(key=key, value=value)
    del graph.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)
