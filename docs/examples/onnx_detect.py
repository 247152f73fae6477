"""Detect objects with a file of `effdet-export MODEL OUT.onnx --nms soft`, ONNX Runtime, NumPy and Pillow alone.

python onnx_detect.py d0.onnx photo.jpg
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
document = json.loads(session.get_modelmeta().custom_metadata_map["effdet_convert"])
config, names, export = document["config"], document["label_map"], document["export"]
if (export["outputs"], export["pixels"], export["batch"] in (1, None)) != ("detections", "normalized", True):
    sys.exit("this example needs a file of: effdet-export MODEL OUT.onnx --nms soft")
height, width = config["image_size"]

# The image keeps its aspect ratio and its top left corner; the rest of the input is 0 after the normalisation.
photo = np.asarray(Image.open(sys.argv[2]).convert("RGB"), np.float32)
if config["normalization"] != "advprop":
    photo = (photo - np.float32(config["mean_rgb"])) / np.float32(config["std_rgb"])
scale = min(height / photo.shape[0], width / photo.shape[1])
size = max(1, int(photo.shape[1] * scale)), max(1, int(photo.shape[0] * scale))
channels = [Image.fromarray(np.ascontiguousarray(channel)) for channel in photo.transpose(2, 0, 1)]
# Bilinear without smoothing, as the network was trained: Pillow's `transform`, unlike its `resize`.
area = (photo.shape[1] / size[0], 0, 0, 0, photo.shape[0] / size[1], 0)
edges = [np.asarray(item.transform(size, Image.Transform.AFFINE, area, Image.Resampling.BILINEAR)) for item in channels]
images = np.zeros((1, 3, height, width), np.float32)
images[0, :, : size[1], : size[0]] = edges
if config["normalization"] != "mean_std":
    images = images * 2 / 255 - 1

boxes, scores, classes, count = (output[0] for output in session.run(None, {"images": images}))
for box, score, number in zip(boxes[:count] / scale, scores[:count], classes[:count], strict=True):
    if score >= 0.3:
        print(names.get(str(number), f"class {number}"), f"{score:.3f}", *(f"{side:.2f}" for side in box))
