#!/usr/bin/env bash
# TensorFlow's int8 calibration gives the first input of a sum the range of the sum, so small values become 0.
#
# Expected: post-training quantization gives every tensor the range of its own values over the representative data set.
# Seen (TensorFlow 2.21.0; the same with 2.15.1), x in -1 to 1, and times(small + large, 1):
#   small = times(x, .1)   width of its range 20.13 instead of .2, which is that of small + large: 101 times too wide
#   large = times(x, 10)   19.93, as expected
#   large + small          small .2, as expected, and now large 20.13
#   So the first input of an ADD has the range of the sum. Where the sum is the last operation, it does not happen.
# Why: presumably the interpreter that calibrates writes a sum into the memory of its first input, and the ranges of inputs
#   are read after the operation ran.
# Why it matters: in a residual network this is every branch beside a shortcut, in official int8 EfficientDet-Lite files too;
#   a branch that is small beside the shortcut is stored with few of the 256 codes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0 ai-edge-litert==2.3.0 numpy==2.4.6
cd "$work"
TF_CPP_MIN_LOG_LEVEL=3 "$venv/bin/python" -W ignore - 2> log <<'PROGRAM' || { cat log; exit 1; }
import sys

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

failed = False
IMAGES = [np.random.default_rng(seed).uniform(-1, 1, (1, 4, 4, 1)).astype(np.float32) for seed in range(10)]


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def times(x, factor):
    """Return a convolution that multiplies."""
    return tf.nn.conv2d(x, tf.constant(np.float32(factor).reshape(1, 1, 1, 1)), 1, "SAME")


def widths(small_first):
    """Return {factor: width of the range that its product got} of the two inputs of a sum."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((1, 4, 4, 1))])
    def run(x):
        small, large = times(x, 0.1), times(x, 10)
        return times(small + large if small_first else large + small, 1)

    module.run = run
    converter = tf.lite.TFLiteConverter.from_concrete_functions([run.get_concrete_function()], module)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image] for image in IMAGES)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    scales = {row["index"]: row["quantization"][0] for row in interpreter.get_tensor_details()}
    found = {}
    for operation in interpreter._get_ops_details():
        if operation["op_name"] == "CONV_2D":
            _, kernel, _ = operation["inputs"]
            found[round(127 * scales[kernel], 3)] = 255 * scales[operation["outputs"][0]]
    return found


largest = max(abs(image).max() for image in IMAGES)
right = {factor: 2 * factor * largest for factor in (0.1, 10)}
for small_first in (True, False):
    found = widths(small_first)
    print("   ", "small + large" if small_first else "large + small", {key: round(width, 2) for key, width in found.items()})
    small, large = found[0.1], found[10.0]
    if small_first:
        check(f"small is given {small / right[0.1]:.0f} times its range", 90 < small / right[0.1] < 110)
    else:
        check(f"small is given {small / right[0.1]:.2f} times its range", 0.9 < small / right[0.1] < 1.1)
        check(f"large is given {large / right[10]:.3f} times its range", 1.005 < large / right[10] < 1.02)
sys.exit(failed)
PROGRAM
