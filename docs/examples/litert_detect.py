"""Detect objects with a file of `effdet-export MODEL OUT.tflite [--int8 ...]`, LiteRT, NumPy and Pillow alone.

python litert_detect.py lite0.tflite photo.jpg
"""

import json
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

model = schema.Model.GetRootAs(Path(sys.argv[1]).read_bytes())
entries = {(entry := model.Metadata(number)).Name(): entry.Buffer() for number in range(model.MetadataLength())}
document = json.loads(model.Buffers(entries[b"effdet_convert"]).DataAsNumpy().tobytes())
config, names, export = document["config"], document["label_map"], document["export"]
if export["outputs"] != "detections" or config["normalization"] != "mean_std":
    sys.exit("this example needs a file of: effdet-export MODEL OUT.tflite, without --nms none")
detect, (height, width) = Interpreter(sys.argv[1]).get_signature_runner("tflite"), config["image_size"]

# The image keeps its aspect ratio and its top left corner; the rest of the input is the mean.
photo = np.asarray(Image.open(sys.argv[2]).convert("RGB"), np.float32)
scale = min(height / photo.shape[0], width / photo.shape[1])
size = max(1, int(photo.shape[1] * scale)), max(1, int(photo.shape[0] * scale))
channels = [Image.fromarray(np.ascontiguousarray(channel)) for channel in photo.transpose(2, 0, 1)]
# Bilinear without smoothing, as the network was trained: Pillow's `transform`, unlike its `resize`.
area = (photo.shape[1] / size[0], 0, 0, 0, photo.shape[0] / size[1], 0)
edges = [np.asarray(item.transform(size, Image.Transform.AFFINE, area, Image.Resampling.BILINEAR)) for item in channels]
images = np.tile(np.float32(config["mean_rgb"]), (1, height, width, 1))
images[0, : size[1], : size[0]] = np.stack(edges, axis=-1)
if export["pixels"] == "uint8":  # 8 bits take pixels as they are
    images = images.round().clip(0, 255).astype(np.uint8)
else:
    images = (images - np.float32(config["mean_rgb"])) / np.float32(config["std_rgb"])

outputs = detect(images=images)  # count, scores, classes from 0, boxes (ymin, xmin, ymax, xmax) of 0..1
count, scores, classes, boxes = (outputs[f"output_{number}"][0] for number in range(4))
for place in range(int(count)):  # what is behind the count is not of this image
    if scores[place] >= 0.3:
        box = boxes[place][[1, 0, 3, 2]] * (width, height, width, height) / scale
        number = str(int(classes[place]) + 1)
        print(names.get(number, f"class {number}"), f"{scores[place]:.3f}", *(f"{side:.2f}" for side in box))
