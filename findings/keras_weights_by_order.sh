#!/usr/bin/env bash
# Keras 3 loads a .weights.h5 file by the order of the layers and ignores their names: two heads swap silently.
#
# Expected: a layer called "boxes" gets the weights that were saved for the layer called "boxes", or an error.
# Seen (Keras 3.15.1 with TensorFlow 2.21.0; one input, two heads of equal shape called "classes" and "boxes"):
#   saved from Model(inputs, [classes, boxes]), loaded into Model(inputs, [boxes, classes]):
#     "classes" of the new model has the weights of "boxes" of the old one and the other way round;
#     no error, no warning.
#   saved and loaded in the same order, with both heads renamed: loaded, although no name matches.
#   The documentation asks for the same topology; both models have the same layers, names and connections.
#   The file has groups such as "layers/dense" and "layers/dense_1": the class of the layer and a number.
# Why it matters: code that rebuilds a network and lists its heads in another order gets a model that runs and is
#   wrong. Whoever reads such a file must not take its group names for the names of the layers. After loading, compare
#   outputs with the original model.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check \
    tensorflow-cpu==2.21.0 keras==3.15.1 h5py==3.14.0 numpy==2.4.6
export CUDA_VISIBLE_DEVICES="" TF_CPP_MIN_LOG_LEVEL=3 TF_ENABLE_ONEDNN_OPTS=0 KERAS_BACKEND=tensorflow
cd "$work"
"$venv/bin/python" - <<'PROGRAM'
import sys
import warnings

import h5py
import keras
import numpy as np
import tensorflow as tf

failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def build(*heads):
    """Build a model whose outputs are the named heads, in that order."""
    inputs = keras.Input((8,))
    return keras.Model(inputs, [keras.layers.Dense(4, name=head)(inputs) for head in heads])


def kernel(model, head):
    return np.asarray(model.get_layer(head).kernel)


def load(model):
    """Load the file and return the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.load_weights("model.weights.h5")
    return caught


print(f"Keras {keras.__version__}, TensorFlow {tf.__version__}")
saved = build("classes", "boxes")
saved.save_weights("model.weights.h5")
with h5py.File("model.weights.h5") as file:
    groups = sorted(file["layers"])
print("  groups in the file:", ", ".join(groups))
check("no group is called after a layer", "dense" in groups and not {"classes", "boxes"} & set(groups))

swapped = build("boxes", "classes")
check("the other order loads without a warning", load(swapped) == [])
check('"boxes" has the weights of "classes"', np.array_equal(kernel(swapped, "boxes"), kernel(saved, "classes")))
check('"classes" has the weights of "boxes"', np.array_equal(kernel(swapped, "classes"), kernel(saved, "boxes")))

renamed = build("left", "right")
check("other names load without a warning", load(renamed) == [])
check("and get the weights in order", np.array_equal(kernel(renamed, "right"), kernel(saved, "boxes")))
sys.exit(failed)
PROGRAM
