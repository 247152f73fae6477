#!/usr/bin/env bash
# Pillow turns a 16-bit greyscale PNG into an almost white RGB picture; TensorFlow scales it.
#
# Expected: Image.open(path).convert("RGB") scales 16-bit grey to 8 bits, as Pillow does for 16-bit colour.
# Seen (Pillow 13.0.0, TensorFlow 2.21.0; a gradient from 0 to 65535, each level once):
#                                      16-bit grey                        16-bit colour, the same gradient
#   Pillow, convert("RGB")             min(level, 255): 99.6 % are 255    level // 256: 0.4 % are 255
#   tf.io.decode_png, dtype=tf.uint8   level // 256: 0.4 % are 255        level // 256: 0.4 % are 255
#   There is no warning, and no error.
# Why, as far as this script shows it: Pillow opens the grey file in mode "I;16" with all 16 bits, and convert() clips
#   at 255 instead of scaling. It has no 16-bit colour mode, so colour loses its low byte when the file is opened.
# Why it matters: thermal, medical and microscope pictures are often 16-bit grey, and convert("RGB") is the usual way
#   to feed a detector, which then gets a white picture. Scale np.asarray(image) instead.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check tensorflow-cpu==2.21.0 pillow==13.0.0 numpy==2.4.6
export CUDA_VISIBLE_DEVICES="" TF_CPP_MIN_LOG_LEVEL=3 TF_ENABLE_ONEDNN_OPTS=0
"$venv/bin/python" - <<'PROGRAM'
import io
import sys
import warnings

import numpy as np
import PIL
import tensorflow as tf
from PIL import Image

warnings.simplefilter("error")
failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


levels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
print(f"Pillow {PIL.__version__}, TensorFlow {tf.__version__}: a gradient from 0 to 65535")
for name, picture in (("grey", levels), ("colour", levels.repeat(3, axis=-1))):
    contents = tf.io.encode_png(picture).numpy()
    image = Image.open(io.BytesIO(contents))
    pillow = np.asarray(image.convert("RGB"))
    eight_bits = tf.io.decode_png(contents, channels=3, dtype=tf.uint8).numpy()
    white = [f"{(array == 255).mean():.1%}" for array in (pillow, eight_bits)]
    print(f"  16-bit {name}, opened as {image.mode}: {white[0]} of Pillow's values are 255, {white[1]} of TensorFlow's")
    check("TensorFlow keeps the high byte", np.array_equal(eight_bits, np.broadcast_to(picture // 256, (256, 256, 3))))
    if name == "grey":
        check("Pillow clips at 255", np.array_equal(pillow, np.minimum(levels, 255).repeat(3, axis=-1)))
        check('so does convert("L")', np.array_equal(np.asarray(image.convert("L")), pillow[..., 0]))
        check("the 16 bits are there before", np.array_equal(np.asarray(image), levels[..., 0]))
    else:
        check("Pillow keeps the high byte", np.array_equal(pillow, picture // 256))
sys.exit(failed)
PROGRAM
