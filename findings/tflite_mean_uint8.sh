#!/usr/bin/env bash
# The mean of a uint8 picture is 0 after the conversion to TensorFlow Lite, whatever the picture.
#
# Expected: TensorFlow's converter turns tf.reduce_mean of a uint8 tensor into an operation with the same result, or refuses
#   it, as it refuses the sum and the maximum of uint8.
# Seen (TensorFlow 2.21.0, ai-edge-litert 2.3.0; mean over height and width of a picture of 64x96 pixels):
#                                             TensorFlow       ai-edge-litert    without XNNPACK
#   mean of uint8, random values             126, 128, 127        0, 0, 0           0, 0, 0
#   mean of uint8, all 255                   255, 255, 255        0, 0, 0           0, 0, 0
#   mean of the same random values, int32    126, 128, 127     126, 128, 127     126, 128, 127
#   sum or maximum of uint8, mean of int8    computed          refused by the converter
#   There is no warning.
# Why, as far as this script shows it: the operation MEAN takes uint8 as quantised numbers, and the tensors of this file,
#   which are not quantised, have the scale 0. Every picture gives 0.
# Why it matters: a model for devices takes the camera's uint8 picture and preprocesses it itself. Its brightness is
#   measured as 0, and what is corrected by it is wrong, without an error. Cast to float32 first: then the mean is right.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check \
    tensorflow-cpu==2.21.0 ai-edge-litert==2.3.0 numpy==2.4.6
export CUDA_VISIBLE_DEVICES="" TF_CPP_MIN_LOG_LEVEL=3 TF_ENABLE_ONEDNN_OPTS=0
cd "$work"
cat >program.py <<'PROGRAM'
import sys
from importlib.metadata import version

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType

failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def converted(function, picture):
    concrete = tf.function(function).get_concrete_function(tf.TensorSpec(picture.shape, picture.dtype))
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert()


def run(content, picture, resolver):
    """Return the first row of the output, and the scale and zero point of the input."""
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]
    interpreter.set_tensor(entry["index"], picture)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0].tolist(), entry["quantization"]


def mean(x):
    return tf.reduce_mean(x, [1, 2])


print(f"TensorFlow {tf.__version__}, ai-edge-litert {version('ai-edge-litert')}")
picture = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3)).astype(np.uint8)
resolvers = (OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
for name, function, values, right in (
    ("mean of uint8", mean, picture, False),
    ("mean of uint8, all 64", mean, np.full_like(picture, 64), False),
    ("mean of uint8, all 255", mean, np.full_like(picture, 255), False),
    ("mean of int32", mean, picture.astype(np.int32), True),
    ("mean after a cast to float32", lambda x: mean(tf.cast(x, tf.float32)), picture, True),
):
    expected = function(tf.constant(values)).numpy()[0].tolist()
    content = converted(function, values)
    found = [run(content, values, resolver) for resolver in resolvers]
    check(f"{name}: TensorFlow {expected}", abs(expected[0] - values.reshape(-1, 3)[:, 0].mean()) < 1)
    for output, quantization in found:
        holds = np.allclose(output, expected, rtol=1e-4) if right else output == [0, 0, 0]
        check(f"  LiteRT {output}, input's scale and zero point {quantization}", holds and quantization == (0, 0))
for name, function, values in (
    ("sum of uint8", lambda x: tf.reduce_sum(x, [1, 2]), picture),
    ("maximum of uint8", lambda x: tf.reduce_max(x, [1, 2]), picture),
    ("mean of int8", mean, (picture // 2).astype(np.int8)),
):
    try:
        converted(function, values)
    except Exception as error:
        check(f"{name}: the converter raises {type(error).__name__}", type(error).__name__ == "ConverterError")
    else:
        check(f"{name}: the converter raises an error", False)
sys.exit(failed)
PROGRAM
"$venv/bin/python" -W ignore program.py
