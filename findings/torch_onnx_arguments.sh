#!/usr/bin/env bash
# torch.onnx.export leaves out arguments that ONNX lacks: the file computes something else, and no error is raised.
#
# Expected: an argument that the exporter cannot express in ONNX is refused by name, as other unsupported calls are.
# Seen (torch 2.13.0, onnxscript 0.7.2, onnx 1.23.2, onnxruntime 1.32.0; default exporter):
#   function                                              torch            exported file     dynamo=False
#   avg_pool2d(ones, 2, divisor_override=3)               1.333            1.000             1.000
#   scatter_reduce of 3 and 5 into a 0, "mean"            2.667            5.000             error
#   interpolate(8 pixels, scale_factor=0.3,               1.492 and 4.500  1.893 and 5.107   error
#     "bilinear", antialias=True)
#   The first result is that of the divisor 4, the second that of overwriting. With verify=True the export still succeeds;
#   a line in the log says that the output has "a large absolute difference".
# Why, as far as this script shows it: the exporter's translation of these operations ignores the argument, or replaces it:
#   the third file holds the result that interpolate gives for the size of 2 pixels, without the factor.
# Why it matters: a network that imitates another framework's pooling with a divisor, averages points into cells, or
#   shrinks its input in the graph, is exported without complaint and finds other objects. Run the file once with
#   onnxruntime, on the same input, and compare; a successful export says nothing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 onnxscript==0.7.2 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
export CUDA_VISIBLE_DEVICES=""
cd "$work"
cat >program.py <<'PROGRAM'
import contextlib
import io
import logging
import sys

import onnxruntime
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate

failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


class Pool(nn.Module):
    def forward(self, x):
        return avg_pool2d(x, 2, divisor_override=3)


class Mean(nn.Module):
    def forward(self, x):
        return torch.zeros(1).scatter_reduce(0, torch.zeros(2, dtype=torch.int64), x, "mean")


class Shrink(nn.Module):
    def forward(self, x):
        return interpolate(x, scale_factor=0.3, mode="bilinear", antialias=True)


def export(model, x, **options):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return torch.onnx.export(model.eval(), (x,), "model.onnx", **options)


def run(x):
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def close(values, expected):
    return all(abs(value - goal) < 6e-4 for value, goal in zip(values, expected, strict=True))


class Lines(logging.Handler):
    """Collects what is logged."""

    def __init__(self):
        super().__init__()
        self.text = []

    def emit(self, record):
        self.text.append(record.getMessage())


print(f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}")
lines = Lines()
logging.getLogger("torch.onnx").addHandler(lines)
ramp = torch.arange(8.0).expand(1, 1, 8, 8)
for name, model, x, in_torch, in_file in (
    ("avg_pool2d", Pool(), torch.ones(1, 1, 2, 2), [1.3333], [1.0]),
    ("scatter_reduce", Mean(), torch.tensor([3.0, 5.0]), [2.6667], [5.0]),
    ("interpolate", Shrink(), ramp, [1.492, 4.5], [1.893, 5.107]),
):
    expected = model(x)
    lines.text.clear()
    export(model, x, verify=True)
    found = run(x)
    # Every row of the last picture is the same.
    first, second = (tensor.reshape(-1)[: len(in_torch)].tolist() for tensor in (expected, found))
    text = ["; ".join(f"{value:.3f}" for value in values) for values in (first, second)]
    check(f"{name}: torch {text[0]}, file {text[1]}", close(first, in_torch) and close(second, in_file))
    check("  the same shape", expected.shape == found.shape)
    check("  verify=True logs a line and raises nothing", any("large absolute difference" in line for line in lines.text))
    if name == "interpolate":
        other = interpolate(x, (2, 2), mode="bilinear", antialias=True)
        check("  the file has the result for the size alone", torch.allclose(found, other, atol=1e-5))
    try:
        export(model, x, dynamo=False)
    except torch.onnx.errors.OnnxExporterError as error:
        check(f"  dynamo=False: {type(error).__name__}", name != "avg_pool2d")
    else:
        again = run(x).reshape(-1).tolist()
        check("  dynamo=False gives the same value", name == "avg_pool2d" and close(again, in_file))
sys.exit(failed)
PROGRAM
"$venv/bin/python" -W ignore program.py
