"""The `effdet` package as its users run it: the same weights, from network input or images to detections."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.network.model import EfficientDet


def effdet_model(model: EfficientDet) -> nn.Module:
    """Return the network of `effdet` with a model's weights, in eval mode.

    Its detections use our anchors: those of `effdet` have rounded sides, and move boxes by a pixel.
    """
    from effdet import EfficientDet as Theirs
    from effdet import get_efficientdet_config

    config = get_efficientdet_config(f"tf_efficientdet_{model.config.name}")
    config.update(
        num_classes=model.config.num_classes,
        image_size=model.config.image_size,
        redundant_bias=model.config.redundant_bias,
    )
    theirs = Theirs(config, pretrained_backbone=False)
    theirs.load_state_dict(model.state_dict())
    theirs.register_buffer("anchors_yxyx", make_anchors_yxyx(model.config, "cpu"))
    network: nn.Module = theirs.eval().requires_grad_(requires_grad=False)
    return network


def effdet_detections(network: Any, outputs: Any, scales: Tensor) -> list[NDArray[np.float32]]:
    """Return the detections of every image on the host, (N, 6): xyxy in original pixels, score, class from 1."""
    from effdet.bench import _batch_detection, _post_process

    levels = network.config.num_levels
    classes, boxes, indices, numbers = _post_process(*outputs, levels, network.config.num_classes, 5000)
    found = _batch_detection(
        len(scales), classes, boxes, network.anchors_yxyx, indices, numbers, scales, None, max_det_per_image=100
    )
    return [image[image[:, 4] > 0] for image in found.cpu().numpy()]


def effdet_images(
    network: Any, images: Sequence[NDArray[np.uint8]], device: torch.device, mixed: torch.dtype | None
) -> list[NDArray[np.float32]]:
    """Detect in images as `effdet`'s validation does: resized by Pillow, normalised on the device."""
    from effdet.data.transforms import transforms_coco_eval

    size = network.config.image_size
    transform = transforms_coco_eval(img_size=size, interpolation="bilinear", use_prefetcher=True)
    pairs = [transform(Image.fromarray(image), {}) for image in images]
    pixels = torch.from_numpy(np.stack([pixels for pixels, _ in pairs])).to(device).float()
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(1, 3, 1, 1) * 255
    std = torch.tensor([0.229, 0.224, 0.225], device=device).view(1, 3, 1, 1) * 255
    scales = torch.tensor([target["img_scale"] for _, target in pairs], device=device)
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    with nullcontext() if mixed is None else torch.autocast(device.type, half):
        outputs = network((pixels - mean) / std)
    return effdet_detections(network, outputs, scales)
