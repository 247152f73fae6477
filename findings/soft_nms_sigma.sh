#!/usr/bin/env bash
# The sigma of TensorFlow's soft NMS is not the sigma of the Soft-NMS paper: it decays scores with 2 * sigma.
#
# Expected: tf.image.non_max_suppression_with_scores(soft_nms_sigma=s) follows the paper that its documentation cites
#   (Bodla et al., 2017): score * exp(-iou^2 / s).
# Seen (TensorFlow 2.21.0; two boxes with IoU 0.8, the second with score 0.8, iou_threshold=0.5):
#   soft_nms_sigma     score of the second box     the paper's formula     score * exp(-iou^2 / (2 * sigma))
#   0 (hard)           suppressed                  -                       -
#   0.25               0.2224                      0.0618                  0.2224
#   0.5                0.4218                      0.2224                  0.4218
# Why it matters: sigma = 0.5 from the paper, or from code that follows it, has to become 0.25 for TensorFlow, and the
#   other way round. Otherwise nothing fails: duplicates only get other scores.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${FINDINGS_VENV:-$work/venv}
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check tensorflow-cpu==2.21.0 numpy==2.4.6
export CUDA_VISIBLE_DEVICES="" TF_CPP_MIN_LOG_LEVEL=3 TF_ENABLE_ONEDNN_OPTS=0
"$venv/bin/python" - <<'PROGRAM'
import math
import sys

import tensorflow as tf

failed = False


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def suppress(sigma):
    """Return the kept boxes with their scores, for two boxes with IoU 0.8."""
    kept, scores = tf.image.non_max_suppression_with_scores(
        boxes=[[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.8]],
        scores=[0.9, 0.8],
        max_output_size=2,
        iou_threshold=0.5,
        score_threshold=0.0,
        soft_nms_sigma=sigma,
    )
    return dict(zip(kept.numpy().tolist(), scores.numpy().tolist(), strict=True))


print(f"TensorFlow {tf.__version__}: two boxes with IoU 0.8 and scores 0.9 and 0.8")
check("sigma 0, the default, suppresses the second box", list(suppress(0.0)) == [0])
for sigma in (0.25, 0.5):
    paper, halved = 0.8 * math.exp(-(0.8**2) / sigma), 0.8 * math.exp(-(0.8**2) / (2 * sigma))
    scores = suppress(sigma)
    print(f"  sigma {sigma}: {scores}; the paper's formula {paper:.4f}, with 2 * sigma {halved:.4f}")
    check("both boxes stay", list(scores) == [0, 1])
    check("its score decays with 2 * sigma", abs(scores.get(1, 0) - halved) < 1e-5 < abs(scores.get(1, 0) - paper))
sys.exit(failed)
PROGRAM
