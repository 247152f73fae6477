#!/usr/bin/env bash
# OpenVINO runs ONNX's Resize without antialiasing, with another shape, or mostly with zeros, and raises no error.
#
# Expected: read_model of a valid ONNX file either gives the results that the ONNX standard defines, as its reference
#   implementation and ONNX Runtime do, or an error.
# Seen (openvino 2026.4.1, onnxruntime 1.32.0, onnx 1.23.2; OpenVINO on the CPU in float32; values between 0 and 1;
#   largest difference from ONNX Runtime; the reference differs from ONNX Runtime by less than 1e-5 in all rows):
#                                                       OpenVINO
#   linear, 64x96 -> 20x30                              below 1e-5
#   linear, 64x96 -> 20x30, antialias=1                 .42; the result is that of antialias=0
#   keep_aspect_ratio_policy="not_larger", 64x96 -> at most 40x40    shape 40x40 instead of 27x40
#   cubic, NCHW, 64x96 -> 100x150                       below 1e-5
#   cubic, NHWC, 64x96 -> 100x150                       1.2; at least 98 % of the values are 0
# Why, as far as this script shows it: two attributes of Resize, which opset 18 added, are dropped. In the last row the
#   sizes are given for all four axes, and the last one has three channels; with `axes` naming the two of the picture the
#   same file gives the right values.
# Why it matters: preprocessing that is part of an exported graph. torch's interpolate(antialias=True), Pillow's and
#   torchvision's way to shrink a photo, exports as antialias=1: the detector gets an aliased picture, which costs accuracy
#   but fails no test. Compare the resized picture itself between the engines, not only the detections.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check \
    openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$venv/bin/python" - <<'PROGRAM'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

failed = False
picture = np.random.default_rng(0).random((1, 3, 64, 96)).astype(np.float32)
nhwc = np.ascontiguousarray(picture.transpose(0, 2, 3, 1))


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def resize(image, sizes, **attributes):
    """Return what ONNX Runtime, the reference and OpenVINO make of one Resize of opset 19."""
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, image.shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)
    graph = helper.make_graph([node], "resize", [x], [y], [numpy_helper.from_array(np.array(sizes, np.int64), "sizes")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return session.run(None, {"x": image})[0], ReferenceEvaluator(model).run(None, {"x": image})[0], compiled(image)[0]


def differ(first, second):
    return float(np.abs(first - second).max())


print(f"OpenVINO {openvino.__version__}, ONNX Runtime {onnxruntime.__version__}, onnx {onnx.__version__}")
onnx_plain, reference, plain = resize(picture, (1, 3, 20, 30), mode="linear")
check("linear: all agree", max(differ(onnx_plain, reference), differ(onnx_plain, plain)) < 1e-5)

runtime, reference, found = resize(picture, (1, 3, 20, 30), mode="linear", antialias=1)
check("antialias=1: ONNX Runtime is the reference", differ(runtime, reference) < 1e-5)
check(f"antialias=1: OpenVINO differs by {differ(runtime, found):.2f}", differ(runtime, found) > 0.2)
check("antialias=1: OpenVINO gives the result of antialias=0", np.array_equal(found, plain))

policy = {"mode": "linear", "keep_aspect_ratio_policy": "not_larger", "axes": [2, 3]}
runtime, reference, found = resize(picture, (40, 40), **policy)
shapes = [result.shape[2:] for result in (runtime, reference, found)]
check(f"not_larger: shapes {shapes}", shapes == [(27, 40), (27, 40), (40, 40)])
check("not_larger: ONNX Runtime is the reference", differ(runtime, reference) < 1e-5)

cubic = {"mode": "cubic"}
runtime, reference, found = resize(picture, (1, 3, 100, 150), **cubic)
check("cubic, NCHW: all agree", max(differ(runtime, reference), differ(runtime, found)) < 1e-5)
runtime, reference, found = resize(nhwc, (1, 100, 150, 3), **cubic)
check("cubic, NHWC: ONNX Runtime is the reference", differ(runtime, reference) < 1e-5)
zeros = (found == 0).mean()
text = f"cubic, NHWC: OpenVINO differs by {differ(runtime, found):.2f}, {zeros:.1%} are 0"
check(text, differ(runtime, found) > 0.5 and zeros > 0.9)
_, _, found = resize(nhwc, (100, 150), axes=[1, 2], **cubic)
check("cubic, NHWC, axes=[1, 2]: all agree", differ(runtime, found) < 1e-5)
sys.exit(failed)
PROGRAM
