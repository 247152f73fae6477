"""Every format that can be written: the one table, see `listing`."""

from __future__ import annotations

from collections.abc import Mapping

from effdet_torch.export.detector import TensorRtDetector
from effdet_torch.export.formats import COLUMNS, Cell, CellKey, Format
from effdet_torch.export.tflite.profile import operation_profile, why_not
from effdet_torch.export.writers.executorch_file import write_executorch
from effdet_torch.export.writers.onnx_file import write_onnx
from effdet_torch.export.writers.openvino_file import write_openvino
from effdet_torch.export.writers.tflite_file import write_tflite
from effdet_torch.export.writers.torch_files import write_package, write_program, write_script

TESTS = "tests/unit/effdet_torch/export/test_cells.py::test_cell"


def _cells(name: str, *validated: CellKey, **reasons: str) -> dict[CellKey, Cell]:
    """Return the cells of a format: tested ones, and for the others a status and a reason, "STATUS: REASON"."""
    cells = {}
    for outputs, shape in COLUMNS:
        if (outputs, shape) in validated:
            cells[outputs, shape] = Cell("validated", f"{TESTS}[{name}-{outputs}-{shape}]")
        else:
            status, _, reason = (reasons.get(f"{outputs}_{shape}") or reasons[outputs]).partition(": ")
            cells[outputs, shape] = Cell("impossible" if status == "impossible" else "experimental", reason)
    return cells


ANCHORS = "impossible: the anchors depend on the image size"
FIXED = "impossible: the official files have one image of fixed size, and so have these"
NO_LOOP = "impossible: tracing cannot hold the loop of the NMS"
NEVER_RUN = "it was never run, for want of TensorRT"
UNTESTED = "experimental: no test runs it"
UNTESTED_SIZE = (
    "experimental: torch.export may not end: if it takes longer than ten minutes, stop it and export fixed sizes"
)
CODE = "loading it can run code: only from a source that you trust"
NETWORK: tuple[CellKey, ...] = (("network", "static"), ("network", "batch"))
DETECTIONS: tuple[CellKey, ...] = (("detections", "static"), ("detections", "batch"))

FORMATS: Mapping[str, Format] = {
    row.name: row
    for row in (
        Format(
            "onnx",
            "ONNX Runtime",
            write_onnx,
            _cells("onnx", *NETWORK, *DETECTIONS, network_size=UNTESTED_SIZE, detections_size=ANCHORS),
            ("float32", "float16"),
        ),
        Format(
            "openvino",
            "OpenVINO",
            write_openvino,
            _cells("openvino", *NETWORK, *DETECTIONS, network_size=UNTESTED_SIZE, detections_size=ANCHORS),
            note="writes .xml and .bin",
        ),
        Format(
            "torch",
            "PyTorch",
            write_program,
            _cells("torch", *NETWORK, *DETECTIONS, network_size=UNTESTED_SIZE, detections_size=ANCHORS),
            note=CODE,
        ),
        Format(
            "aoti",
            "PyTorch",
            write_package,
            _cells(
                "aoti",
                ("network", "static"),
                network=UNTESTED,
                network_size=UNTESTED_SIZE,
                detections=UNTESTED,
                detections_size=ANCHORS,
            ),
            note=f"machine code for this kind of processor, made by a C++ compiler; {CODE}",
        ),
        Format(
            "torchscript",
            "PyTorch",
            write_script,
            _cells(
                "torchscript",
                ("network", "static"),
                network="impossible: tracing keeps the sizes of its example",
                detections=NO_LOOP,
            ),
            note=f"deprecated by PyTorch; {CODE}",
        ),
        Format(
            "executorch",
            "ExecuTorch",
            write_executorch,
            _cells(
                "executorch",
                ("network", "static"),
                network="impossible: XNNPACK needs fixed sizes",
                detections=UNTESTED,
                detections_size=ANCHORS,
            ),
            note="for the XNNPACK backend; the package needs an environment of its own",
        ),
        Format(
            "litert",
            "LiteRT",
            write_tflite,
            _cells(
                "litert",
                ("network", "static"),
                ("detections", "static"),
                network=FIXED,
                detections=FIXED,
            ),
            ("float32", "float16", "int8"),
            nms_note="the NMS inside is that of TFLite_Detection_PostProcess: hard, of all classes together (profile "
            "tflite), where TensorFlow's own graph has soft NMS; --nms none leaves it out",
            soft=False,
            nms="hard",
            profile=operation_profile,
            why_not=why_not,
        ),
        Format(
            "tensorrt",
            "TensorRT",
            write_onnx,
            _cells(
                "tensorrt",
                network="impossible: without NMS it is the format onnx",
                detections=f"experimental: {NEVER_RUN}",
                detections_size=ANCHORS,
            ),
            ("float32", "float16"),
            note=f"{NEVER_RUN}; hard NMS by the operator EfficientNMS_TRT of the domain TRT, which TensorRT alone has",
            detector=TensorRtDetector,
            soft=False,
            is_run=False,
        ),
    )
}
