#!/usr/bin/env bash
# TFLite_Detection_PostProcess leaves the detections of the previous image in its outputs, unless use_regular_nms is set.
#
# Expected: where an image has fewer detections than max_detections, the rest of the outputs is zeros, as the op gives
#   them with use_regular_nms.
# Seen (ai-edge-litert 2.3.0, model written by TensorFlow 2.21.0), three anchors, score threshold .25:
#   first image    scores .9 .8 .3   num_detections 3
#   second image   scores .9 .1 .1   num_detections 1, and the output still holds .9 .8 .3 with the boxes of the first image
#   second image, use_regular_nms    num_detections 1, scores .9 0 0
# Also seen: both modes suppress a box only if its IoU is above the threshold, as TensorFlow does; at equality it stays.
# Why it matters: who filters by score, and does not read num_detections, draws objects of the previous image on a device
#   and not in a test that runs one image per interpreter.
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
ANCHORS = np.array([[0.5, 0.5, 1, 1], [0.5, 0.25, 1, 0.5], [3, 3, 1, 1]], np.float32)  # y, x of the centre, height, width
FIRST, SECOND = np.float32([[[0.9], [0.8], [0.3]]]), np.float32([[[0.9], [0.1], [0.1]]])


def check(statement, holds):
    global failed
    failed |= not holds
    print("   ", "as stated:" if holds else "CHANGED:  ", statement)


def detector(regular, iou):
    """Return scores (1, anchors, 1) -> [boxes, classes, scores, count]; boxes are the anchors."""
    options = {"max_detections": "i: 3", "max_classes_per_detection": "i: 1", "num_classes": "i: 1"}
    options |= {f"{axis}_scale": "f: 1" for axis in "yxhw"} | {"nms_score_threshold": "f: 0.25"}
    options |= {"nms_iou_threshold": f"f: {iou}", "use_regular_nms": f"b: {str(regular).lower()}"}
    attributes = " ".join(f'attr {{ key: "{key}" value {{ {value} }} }}' for key, value in options.items())

    @tf.function(experimental_implements=f'name: "TFLite_Detection_PostProcess" {attributes}')
    def detect(boxes, scores, anchors):
        return tf.zeros((1, 3, 4)), tf.zeros((1, 3)), tf.zeros((1, 3)), tf.zeros((1,))

    module = tf.Module()
    module.run = tf.function(
        lambda scores: dict(zip("abcd", detect(tf.zeros((1, 3, 4)), scores, tf.constant(ANCHORS)))),
        input_signature=[tf.TensorSpec((1, 3, 1))],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.run.get_concrete_function()], module)
    converter.allow_custom_ops = True
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    outputs = sorted(interpreter.get_output_details(), key=lambda detail: detail["name"])

    def run(scores):
        interpreter.set_tensor(image["index"], scores)
        interpreter.invoke()
        boxes, _, scores, count = [interpreter.get_tensor(output["index"]).copy() for output in outputs]
        return boxes[0], scores[0], int(count[0])

    return run


for regular in (False, True):
    run = detector(regular, iou=0.5)
    boxes, scores, count = run(FIRST)
    check(f"regular {regular}, first image: {count} detections, {scores.round(3)}", count == 3)
    again, after, count = run(SECOND)
    zeros = not after[1:].any() and not again[1:].any()
    stale = np.array_equal(after, scores) and np.array_equal(again, boxes)
    holds = count == 1 and (zeros if regular else stale)
    check(f"regular {regular}, second image: {count} detection, {after.round(3)}", holds)
    alone = detector(regular, iou=0.5)(SECOND)[1]
    check(f"regular {regular}, its detection is the same alone: {alone[0]:.3f}", alone[0] == after[0])
counts = {iou: detector(False, iou)(FIRST)[2] for iou in (0.499, 0.5)}
check(f"boxes with an IoU of .5, detections by threshold: {counts}", counts == {0.499: 2, 0.5: 3})
sys.exit(failed)
PROGRAM
