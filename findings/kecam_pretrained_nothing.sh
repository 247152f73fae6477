#!/usr/bin/env bash
# keras_cv_attention_models says that it loads a file of weights, and takes no value from it.
#
# Expected: pretrained="weights.h5" loads the weights in the file, or raises an error if none of them fits.
# Seen (keras-cv-attention-models 1.4.3, tensorflow and tf_keras 2.21.0; a classifier, random weights with one seed):
#   a .h5 file of a Keras model whose layers have other names: prints ">>>> Load pretrained from: ...", and all weights
#     are those of the model without it
#   control, a file that the same model saved: all weights are the saved ones
# Reason: the file is read by the names of layers, and names that are not there are passed over.
# Why it matters: weights of the official EfficientDet in Keras "load", and the network detects with random ones.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check keras-cv-attention-models==1.4.3 tensorflow==2.21.0 tf_keras==2.21.0
export TF_USE_LEGACY_KERAS=1 TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=
"$venv/bin/python" - "$work" <<'PROGRAM'
import contextlib
import io
import sys
from importlib.metadata import version
from pathlib import Path

from keras_cv_attention_models.efficientnet import EfficientNetV1B0
import numpy as np
import tf_keras

failed = False
work = Path(sys.argv[1])


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def build(pretrained, seed=0):
    """Return the model's weights, and what was printed."""
    tf_keras.utils.set_random_seed(seed)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        model = EfficientNetV1B0(input_shape=(64, 64, 3), num_classes=10, pretrained=pretrained)
    return model, printed.getvalue()


def different(one, other):
    pairs = zip(one.get_weights(), other.get_weights())
    return sum(not np.array_equal(*pair) for pair in pairs)


print(f"keras-cv-attention-models {version('keras-cv-attention-models')}, tf_keras {version('tf_keras')}")
fresh, _ = build(None)
count = len(fresh.get_weights())

renamed = tf_keras.Sequential([tf_keras.layers.Dense(8, name="dense_of_another_model", input_shape=(4,))])
renamed.save_weights(work / "other_names.h5")
loaded, printed = build(str(work / "other_names.h5"))
print(f"  other names: {different(fresh, loaded)} of {count} arrays differ from the model without the file")
check("it says that it loads the file", "Load pretrained from" in printed)
check("no weight comes from it", different(fresh, loaded) == 0)

other, _ = build(None, seed=1)
other.save_weights(work / "own.h5")
loaded, _ = build(str(work / "own.h5"))
print(f"  own file: {different(other, loaded)} of {count} arrays differ from the saved ones")
check("control: its own file is loaded", different(other, loaded) == 0 and different(fresh, loaded) > 0)
sys.exit(failed)
PROGRAM
