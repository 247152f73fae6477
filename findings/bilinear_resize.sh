#!/usr/bin/env bash
# "Bilinear, half-pixel centres" gives different pixels in TensorFlow, torch and torchvision.
#
# Expected: tf.image.resize, torch.nn.functional.interpolate(align_corners=False) and torchvision's resize follow the
#   same definition, so float32 results differ by a few rounding errors at most, and uint8 results not at all.
# Seen (TensorFlow 2.21.0, torch 2.14.1, torchvision 0.29.1, x86-64; share of differing values, largest difference on
#   the scale 0..255; with torch's AVX-512 code, which gives the same as its AVX2 code):
#                                                          427x640 -> 150x224    427x640 -> 512x768
#   1 defaults: tf.image.resize / torchvision resize          95.6 %  141            1.1 %  0.00003
#   2 float32, antialias=False: TensorFlow / torch             2.4 %  0.00095        1.1 %  0.00003
#   3 float32, antialias=True: TensorFlow / torch             81.1 %  0.0041        42.0 %  0.0076
#   4 uint8, antialias=False: TensorFlow, rounded / torch      6.5 %  1              6.6 %  1
#   5 uint8, antialias=False: torch / torchvision              0                     0
#   With torch's generic code (ATEN_CPU_CAPABILITY=default), row 2 is 3.2 %, 0.00003 and 1.7 %, 0.00003; row 5 is
#   6.5 %, 1 and 6.6 %, 1; the other rows change little.
# Why, as far as this script shows it:
#   1 torchvision antialiases tensors by default, TensorFlow does not. Only shrinking shows it.
#   2 TensorFlow computes a + (b - a) * t, torch (1 - t) * a + t * b. With vector instructions torch also fuses
#     multiply and add, in the source coordinate as well. Either form reproduces its library bit for bit.
#   3 The scale: torch divides the sizes, in / out. TensorFlow takes 1 / (out / in), which is rounded twice.
#   4 TensorFlow returns unrounded float32 for uint8 input. torch returns uint8 and rounds after each of two passes
#     (width, then height): that gives 99 % of torch's values, one rounding at the end 93 %.
#   5 torchvision resizes uint8 as torch does where the CPU has AVX2, and in float32 with one rounding elsewhere: the
#     same program gives other pixels on another CPU.
# Why it matters: a detector trained on TensorFlow's input sees other pixels after a port: very different ones with the
#   defaults (row 1), and never the same bits (rows 2 to 5). Compare two networks on one saved input tensor, not on one
#   image file.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check \
    tensorflow-cpu==2.21.0 torch==2.14.1 torchvision==0.29.1 numpy==2.4.6
export CUDA_VISIBLE_DEVICES="" TF_CPP_MIN_LOG_LEVEL=3 TF_ENABLE_ONEDNN_OPTS=0
cat >"$work/program.py" <<'PROGRAM'
import sys

import numpy as np
import torch
import torchvision
from torchvision.transforms.v2.functional import resize as torchvision_resize

import tensorflow as tf  # after torch, which has to be loaded first

F32 = np.float32
failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def difference(a, b):
    distance = np.abs(a.astype(np.float64) - b)
    return (distance > 0).mean(), distance.max()


def torch_resize(picture, size, function=torch.nn.functional.interpolate, **options):
    resized = function(torch.from_numpy(picture).permute(2, 0, 1)[None], size, **options)
    return resized[0].permute(1, 2, 0).numpy()


def tf_resize(picture, size, antialias=False):
    return tf.image.resize(picture, size, "bilinear", antialias=antialias).numpy()


def multiply_add(a, b, c, fused):
    """Return a * b + c with one rounding (fused) or two."""
    return (a.astype(np.float64) * b + c).astype(F32) if fused else a * b + c


def taps(size_in, size_out, fused):
    """Return the lower and upper source index of every output pixel, and the fraction between them."""
    scale = F32(size_in) / F32(size_out)
    centre = np.maximum(multiply_add(np.arange(size_out, dtype=F32) + F32(0.5), scale, F32(-0.5), fused), F32(0))
    lower = np.floor(centre)
    return lower.astype(int), np.minimum(lower + 1, size_in - 1).astype(int), centre - lower


def bilinear(picture, size, form):
    """Resize with "lerp", a + (b - a) * t, or with "weights" or "fused weights", (1 - t) * a + t * b."""
    fused = form.startswith("fused")

    def mix(a, b, t):
        return a + (b - a) * t if form == "lerp" else multiply_add(F32(1) - t, a, t * b, fused)

    top, bottom, y = taps(picture.shape[0], size[0], fused)
    left, right, x = taps(picture.shape[1], size[1], fused)
    x, y = x[None, :, None], y[:, None, None]
    rows = [mix(picture[row][:, left], picture[row][:, right], x) for row in (top, bottom)]
    return mix(*rows, y)


def triangle(size_in, size_out, twice_rounded):
    """Return the antialiasing weights, one row per output pixel, for one of the two ways to compute the scale."""
    scale = F32(1) / (F32(size_out) / F32(size_in)) if twice_rounded else F32(size_in) / F32(size_out)
    centre = (np.arange(size_out, dtype=F32) + F32(0.5)) * scale
    distance = np.abs(np.arange(size_in) + 0.5 - centre[:, None].astype(np.float64))
    weights = np.maximum(0, 1 - distance / max(float(scale), 1.0))
    return weights / weights.sum(axis=1, keepdims=True)


def antialiased(picture, size, twice_rounded):
    wide = np.einsum("ox,yxc->yoc", triangle(picture.shape[1], size[1], twice_rounded), picture.astype(np.float64))
    return np.einsum("oy,yxc->oxc", triangle(picture.shape[0], size[0], twice_rounded), wide)


def rounded_twice(picture, size):
    """Resize in float64, width first, and round after each pass."""
    left, right, x = taps(picture.shape[1], size[1], fused=False)
    wide = picture[:, left] * (1.0 - x[:, None]) + picture[:, right] * x[:, None]
    wide = np.floor(wide + 0.5)
    top, bottom, y = taps(picture.shape[0], size[0], fused=False)
    return np.floor(wide[top] * (1.0 - y[:, None, None]) + wide[bottom] * y[:, None, None] + 0.5)


y, x = np.mgrid[0:427, 0:640]
picture = np.stack([x * 255 // 639, y * 255 // 426, (x * y // 50) % 256], axis=-1).astype(np.uint8)
picture[(x // 24 + y // 24) % 5 == 0] = (230, 30, 40)
floats = picture.astype(F32)
options = {"mode": "bilinear", "align_corners": False}

fast = "AVX" in torch.backends.cpu.get_cpu_capability()
print(f"torch with its {torch.backends.cpu.get_cpu_capability()} code")
for size in ((150, 224), (512, 768)):
    print(f"  427x640 -> {size[0]}x{size[1]}: share of differing values, largest difference")
    shrinks = size[0] < 427
    defaults = tf.image.resize(floats, size).numpy()
    off, on = tf_resize(floats, size), tf_resize(floats, size, antialias=True)
    torch_off = torch_resize(floats, size, **options)
    torch_on = torch_resize(floats, size, antialias=True, **options)
    torch_bytes = torch_resize(picture, size, **options)
    vision_defaults = torch_resize(floats, size, torchvision_resize)
    vision_bytes = torch_resize(picture, size, torchvision_resize, antialias=False)
    tf_bytes = tf_resize(picture, size)
    measured = [
        ("1 defaults", difference(defaults, vision_defaults)),
        ("2 float32, antialias=False", difference(off, torch_off)),
        ("3 float32, antialias=True", difference(on, torch_on)),
        ("4 uint8, TensorFlow rounded / torch", difference(np.rint(tf_bytes), torch_bytes)),
        ("5 uint8, torch / torchvision", difference(torch_bytes, vision_bytes)),
    ]
    for name, (share, largest) in measured:
        print(f"    {name:36} {share:7.2%} {largest:9.3g}")
    (share1, max1), (share2, max2), (share3, max3), (share4, max4), (share5, _) = (row[1] for row in measured)
    if shrinks:
        check("1 the defaults differ widely where the picture shrinks", share1 > 0.8 and max1 > 50)
    else:
        check("1 the defaults nearly agree where the picture grows", share1 < 0.1 and max1 < 1e-3)
    check("2 without antialiasing under 10 % differ, by less than 0.002", 0 < share2 < 0.1 and max2 < 2e-3)
    check("2 TensorFlow is a + (b - a) * t bit for bit", np.array_equal(off, bilinear(floats, size, "lerp")))
    forms = [form for form in ("weights", "fused weights") if np.array_equal(torch_off, bilinear(floats, size, form))]
    check(f"2 torch is (1 - t) * a + t * b bit for bit ({', '.join(forms)})", forms != [])
    check("3 with antialiasing over 30 % differ, by more than 0.002", share3 > 0.3 and 2e-3 < max3 < 0.1)
    once, twice = antialiased(floats, size, twice_rounded=False), antialiased(floats, size, twice_rounded=True)
    check(
        "3 in / out explains torch, 1 / (out / in) TensorFlow, and not the other way round",
        max(difference(torch_on, once)[1], difference(on, twice)[1]) < 3e-4
        and min(difference(torch_on, twice)[1], difference(on, once)[1]) > 1e-3,
    )
    check("4 TensorFlow returns float32, torch uint8", (tf_bytes.dtype, torch_bytes.dtype) == (F32, np.uint8))
    check("4 TensorFlow's result, rounded, is not torch's", share4 > 0.02 and max4 <= 2)
    unexplained, _ = difference(torch_bytes, rounded_twice(floats.astype(np.float64), size))
    check(f"4 rounding after each pass gives torch's values but for {unexplained:.1%}", unexplained < 0.02)
    if fast:
        check("5 torchvision equals torch with AVX2 or AVX-512", share5 == 0)
    else:
        rounded_once = np.array_equal(vision_bytes, np.rint(torch_off))
        check("5 torchvision rounds once without them", share5 > 0.02 and rounded_once)
versions = (tf.__version__, torch.__version__, torchvision.__version__)
print("  TensorFlow {}, torch {}, torchvision {}".format(*versions))
sys.exit(failed)
PROGRAM
status=0
ATEN_CPU_CAPABILITY=default "$venv/bin/python" "$work/program.py" || status=1
"$venv/bin/python" "$work/program.py" || status=1
exit "$status"
