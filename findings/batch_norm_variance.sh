#!/usr/bin/env bash
# A batch norm trained with Keras 3 stores another variance than the same layer trained with Keras 2.
#
# Expected: keras.layers.BatchNormalization and tf_keras.layers.BatchNormalization, on the same batch, store the same
#   moving variance.
# Seen (TensorFlow 2.21.0, Keras 3.15.1, tf_keras 2.21.0; ratio of the moving variance to the variance of the batch,
#   n = values per channel, momentum 0):
#                                              n = 2     n = 16     n = 1024
#   Keras 3                                    1         1          1
#   tf_keras (Keras 2), NHWC input             2         1.0667     1.0010
#   tf_keras, the same values as (n, C)        1         1          1
#   tf.raw_ops.FusedBatchNormV3                2         1.0667     1.0010
# Why, as far as this script shows it: TensorFlow's fused kernel returns the unbiased variance, divided by n - 1, for
#   the moving average. Keras 2 uses that kernel for images but not for matrices; Keras 3 always stores the biased one.
#   Only the stored statistics differ: all normalise a training batch with the biased variance.
# Why it matters: n is small where a detector has its coarsest maps (4x4 at batch size 1: n = 16, 6.7 %). Fine-tuning
#   that moves between Keras 2, Keras 3 and PyTorch (documented as unbiased) drifts, and a training step compared across
#   them agrees in its outputs but not in the moving variance.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check tensorflow-cpu==2.21.0 keras==3.15.1 numpy==2.4.6
# Without its dependencies: it asks for the package "tensorflow", which tensorflow-cpu replaces.
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps tf_keras==2.21.0
export CUDA_VISIBLE_DEVICES="" TF_CPP_MIN_LOG_LEVEL=3 TF_ENABLE_ONEDNN_OPTS=0 KERAS_BACKEND=tensorflow
"$venv/bin/python" - <<'PROGRAM'
import sys

import keras
import numpy as np
import tensorflow as tf
import tf_keras

failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def train_step(package, batch):
    """Return the moving variance and the output after one training batch, with momentum 0."""
    layer = package.layers.BatchNormalization(momentum=0.0)
    output = layer(batch, training=True)
    return np.asarray(layer.moving_variance), np.asarray(output)


def fused(batch):
    ones, zeros = tf.ones(batch.shape[-1]), tf.zeros(batch.shape[-1])
    result = tf.raw_ops.FusedBatchNormV3(x=batch, scale=ones, offset=zeros, mean=[], variance=[], epsilon=1e-3)
    return result.batch_variance.numpy()


print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, tf_keras {tf_keras.__version__}")
for shape in ((2, 1, 1, 3), (1, 4, 4, 3), (4, 16, 16, 3)):
    batch = np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)
    matrix = batch.reshape(-1, 3)
    n = len(matrix)
    biased = matrix.astype(np.float64).var(axis=0)
    (keras3, output3), (keras2, output2) = train_step(keras, batch), train_step(tf_keras, batch)
    ratios = {
        "Keras 3": keras3 / biased,
        "tf_keras, NHWC": keras2 / biased,
        "tf_keras, (n, C)": train_step(tf_keras, matrix)[0] / biased,
        "FusedBatchNormV3": fused(batch) / biased,
    }
    print(f"  n = {n}: ratio of the moving variance to the variance of the batch")
    for name, ratio in ratios.items():
        print(f"    {name:18} {ratio.mean():.4f}")
        unbiased = name in ("tf_keras, NHWC", "FusedBatchNormV3")
        check(
            "divided by n - 1" if unbiased else "divided by n",
            np.allclose(ratio, n / (n - 1) if unbiased else 1, rtol=0, atol=1e-4),
        )
    check("Keras 2 and 3 give the same output in training", np.allclose(output2, output3, rtol=0, atol=1e-4))
sys.exit(failed)
PROGRAM
