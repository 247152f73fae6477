"""OpenVINO's `.xml` and `.bin`, made of the ONNX graph."""

from __future__ import annotations

from pathlib import Path

from effdet_torch.engines.file_engine import quiet
from effdet_torch.engines.runtimes.openvino import WEIGHTS_CHECKSUM, weights_checksum
from effdet_torch.export.writers.onnx_file import onnx_model
from effdet_torch.export.writers.program import Job, Written, explained
from effdet_torch.file_format import METADATA_KEY


def write_openvino(job: Job, path: Path) -> Written:
    """Write the graph to `path` and the weights beside it.

    Raises:
        EffdetError: The exporter fails.
    """
    import openvino  # an extra

    source, weights = path.with_suffix(".onnx"), path.with_suffix(".bin")
    source.write_bytes(onnx_model(job).SerializeToString())
    with quiet(), explained("OpenVINO"):
        model = openvino.convert_model(source)
        model.set_rt_info(job.document.to_json(), [METADATA_KEY])
        # The default would store the weights in half precision. The second time, with what the first time wrote.
        openvino.save_model(model, path, compress_to_fp16=False)
        model.set_rt_info(weights_checksum(weights.read_bytes()), [WEIGHTS_CHECKSUM])
        openvino.save_model(model, path, compress_to_fp16=False)
    return [path, weights]
