#!/usr/bin/env bash
# TensorFlow decodes a JPEG file to other pixels than Pillow by default, and tf.io.decode_image has no option for it.
#
# Expected: both use libjpeg-turbo, so one file gives one array.
# Seen (TensorFlow 2.21.0, Pillow 13.0.0 with libjpeg-turbo 3.2.0, x86-64; share of values that differ from Pillow's,
#   largest difference on the scale 0..255; the picture has hard colour edges):
#                                                 quality 75                quality 95
#                                            4:4:4        4:2:0         4:4:4        4:2:0
#   tf.io.decode_jpeg                      64.8 %, 3    63.0 %, 4     53.5 %, 8    60.9 %, 7
#   tf.io.decode_image                     64.8 %, 3    63.0 %, 4     53.5 %, 8    60.9 %, 7
#   tf.io.decode_jpeg, INTEGER_ACCURATE        0            0             0            0
#   mean distance from the picture before compression
#     tf.io.decode_jpeg                      2.610        5.663         1.243        4.385
#     Pillow                                 2.262        5.481         0.921        4.074
# Why, as far as this script shows it: the default of decode_jpeg is dct_method="INTEGER_FAST", the less accurate of
#   libjpeg's two integer transforms. With dct_method="INTEGER_ACCURATE" the arrays are equal, so the upsampling of the
#   colours (4:2:0) and the colour conversion do not differ. At the higher quality the
#   largest difference is larger. decode_image has no such option.
# Why it matters: a detector trained on TensorFlow's pixels and run on Pillow's gets slightly different input, and a
#   comparison of two frameworks that starts from a JPEG file never agrees to rounding. Decode with
#   dct_method="INTEGER_ACCURATE", or compare from decoded pixels.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check tensorflow-cpu==2.21.0 pillow==13.0.0 numpy==2.4.6
export CUDA_VISIBLE_DEVICES="" TF_CPP_MIN_LOG_LEVEL=3 TF_ENABLE_ONEDNN_OPTS=0
"$venv/bin/python" - <<'PROGRAM'
import inspect
import io
import sys

import numpy as np
import PIL
import tensorflow as tf
from PIL import Image, features

failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def distance(a, b):
    return np.abs(a.astype(int) - b)


y, x = np.mgrid[0:427, 0:640]
picture = np.stack([x * 255 // 639, y * 255 // 426, (x * y // 50) % 256], axis=-1).astype(np.uint8)
picture[(x // 24 + y // 24) % 5 == 0] = (230, 30, 40)

print(f"TensorFlow {tf.__version__}, Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}")
largest = {}
for quality in (75, 95):
    for subsampling in ("4:4:4", "4:2:0"):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=subsampling)
        contents = file.getvalue()
        pillow = np.asarray(Image.open(file).convert("RGB"))
        default = tf.io.decode_jpeg(contents, channels=3).numpy()
        fast = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_FAST").numpy()
        accurate = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE").numpy()
        image = tf.io.decode_image(contents, channels=3).numpy()
        print(f"  quality {quality}, {subsampling}: share of values that differ from Pillow's, largest difference")
        for name, decoded in (("default", default), ("INTEGER_ACCURATE", accurate), ("decode_image", image)):
            away = distance(decoded, pillow)
            print(f"    {name:18} {(away > 0).mean():7.2%} {away.max():4}")
        mean_default, mean_pillow = distance(default, picture).mean(), distance(pillow, picture).mean()
        print(f"    mean distance from the original: default {mean_default:.3f}, Pillow {mean_pillow:.3f}")
        away = distance(default, pillow)
        largest[quality, subsampling] = away.max()
        check("over half of the values differ by default", (away > 0).mean() > 0.5)
        check("the largest difference is 2 to 30", 2 <= away.max() <= 30)
        check("the default is INTEGER_FAST", np.array_equal(default, fast))
        check("the default is further from the original than Pillow", mean_default > mean_pillow)
        check("decode_image gives the same as the default of decode_jpeg", np.array_equal(image, default))
        check("INTEGER_ACCURATE equals Pillow", np.array_equal(accurate, pillow))
print("  all files:")
for subsampling in ("4:4:4", "4:2:0"):
    check(f"{subsampling}: the difference grows with the quality", largest[95, subsampling] > largest[75, subsampling])
check("decode_image has no dct_method", "dct_method" not in inspect.signature(tf.io.decode_image).parameters)
sys.exit(failed)
PROGRAM
