#!/usr/bin/env bash
# onnx's version converter moves the picture: a Resize of opset 10 has other results after the conversion to 11 or later.
#
# Expected: onnx.version_converter.convert_version gives a model that computes the same, or raises an error.
# Seen (onnx 1.23.2, onnxruntime 1.32.0; a ramp from 0 to 15 along each row of 16 pixels; largest difference between the
#   model converted to opset 11, 13, 18 or 21 and the original, of opset 10 or 9):
#                          2 x        3 x        1.5 x       1/2        1/3
#   Resize-10, linear      .25        .33         .17        .50       1.00
#   Resize-10, nearest      0          0           0          0        1.00
#   Upsample-9, linear     .25        .33         .17
#   Upsample-9, nearest     0          0           0
#   onnx.checker accepts the result, and there is no warning.
# Why, as far as this script shows it: opset 10 samples at out / scale. Opset 11 says so with
#   coordinate_transformation_mode="asymmetric" and nearest_mode="floor", which the converter does not write: the defaults
#   of opset 11 take their place. With the two attributes added, the difference is 0 in all rows.
# Why it matters: old exports have opset 9 or 10, and tools that need a newer one convert them first. Every bilinear level
#   of a feature pyramid moves by a quarter of a coarse pixel, and the boxes with it. A network with nearest neighbours by
#   the factor 2, such as EfficientDet's, stays right, so a check with one network does not show that the tool is safe.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$venv/bin/python" - <<'PROGRAM'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, version_converter

SCALES = (2, 3, 1.5, 1 / 2, 1 / 3)
ramp = np.tile(np.arange(16, dtype=np.float32), (16, 1))[None, None]
failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def model(operation, opset, mode, scale):
    node = helper.make_node(operation, ["x", "scales"], ["y"], mode=mode)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ramp.shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)
    scales = numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32), "scales")
    graph = helper.make_graph([node], "resize", [x], [y], [scales])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)


def run(made):
    onnx.checker.check_model(made, full_check=True)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": ramp})[0]


def with_attributes(converted):
    """Say how opset 10 sampled."""
    node = next(node for node in converted.graph.node if node.op_type == "Resize")
    node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
    node.attribute.append(helper.make_attribute("nearest_mode", "floor"))
    return converted


print(f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}; scales 2, 3, 1.5, 1/2, 1/3")
onnxruntime.set_default_logger_severity(3)
for operation, opset, mode, expected in (
    ("Resize", 10, "linear", (0.25, 0.333, 0.167, 0.5, 1.0)),
    ("Resize", 10, "nearest", (0, 0, 0, 0, 1.0)),
    ("Upsample", 9, "linear", (0.25, 0.333, 0.167)),  # it cannot shrink
    ("Upsample", 9, "nearest", (0, 0, 0)),
):
    for target in (11, 13, 18, 21):
        differences, repaired = [], []
        for scale, _ in zip(SCALES, expected, strict=False):
            original = model(operation, opset, mode, scale)
            converted = version_converter.convert_version(original, target)
            differences.append(float(np.abs(run(converted) - run(original)).max()))
            repaired.append(float(np.abs(run(with_attributes(converted)) - run(original)).max()))
        text = " ".join(f"{difference:.3f}" for difference in differences)
        check(f"{operation}-{opset}, {mode}, to {target}: {text}", np.allclose(differences, expected, rtol=0, atol=1e-3))
        check("  with the attributes 0", max(repaired) == 0)
sys.exit(failed)
PROGRAM
