"""The modules that are exported: the network alone, or everything from pixels to detections."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from effdet_torch.config import EfficientDetConfig
from effdet_torch.engines.document import Interface
from effdet_torch.errors import ConfigError
from effdet_torch.export.settings import profile_from
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.geometry.boxes import clip_boxes_xyxy, decode_boxes_xyxy
from effdet_torch.geometry.loop_nms import loop_nms
from effdet_torch.inference.postprocess import CLASS_OFFSET, Profile, best_class, flatten_levels, top_k
from effdet_torch.network.model import EfficientDet


class ExportedNetwork(nn.Module):
    """Pixels to class logits and box deltas, as a flat tuple; the network is the submodule `model`."""

    def __init__(self, model: EfficientDet, interface: Interface) -> None:
        super().__init__()
        self.model = model
        self.input = Normalization(model.config) if interface.pixels == "uint8" else nn.Identity()
        self.is_half = interface.precision == "float16"

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images, see `Interface.pixels`, to the outputs of all levels, classes first, (B, C, H_l, W_l) float32."""
        pixels = self.input(images)
        class_logits, box_deltas = self.model(pixels.half() if self.is_half else pixels)
        return tuple(output.float() for output in (*class_logits, *box_deltas))


class ExportedDetector(nn.Module):
    """Pixels to detections, in pixels of the network input."""

    def __init__(self, network: ExportedNetwork, config: EfficientDetConfig, profile: Profile) -> None:
        super().__init__()
        self.network, self.profile, self.image_size = network, profile, config.image_size
        self.num_classes = config.num_classes
        self.register_buffer("anchors_yxyx", make_anchors_yxyx(config), persistent=False)
        self.anchors_yxyx: Tensor

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map images to detections, best first.

        Returns:
            boxes (B, M, 4) float32 as (xmin, ymin, xmax, ymax), scores (B, M) float32, classes (B, M) int64 counted
            from 1, and the number of detections (B,) int64, behind which everything is 0.
        """
        outputs, profile = self.network(images), self.profile
        deltas = flatten_levels(outputs[len(outputs) // 2 :], 4)
        logits = flatten_levels(outputs[: len(outputs) // 2], self.num_classes)
        found = top_k(logits, profile.max_candidates) if profile.candidates == "top_k" else best_class(logits)
        chosen = deltas.gather(1, found.anchors[:, :, None].expand(-1, -1, 4))
        boxes = decode_boxes_xyxy(chosen, self.anchors_yxyx[found.anchors])
        scores = found.logits.double().sigmoid().float()
        indices, scores, count = loop_nms(
            boxes,
            scores,
            found.classes if profile.per_class else None,
            profile.max_detections,
            profile.iou_threshold,
            profile.score_threshold,
            profile.sigma / 2,
        )
        boxes = boxes.gather(1, indices[:, :, None].expand(-1, -1, 4))
        if profile.clip:
            boxes = clip_boxes_xyxy(boxes, self.image_size)
        valid = torch.arange(profile.max_detections, device=boxes.device) < count[:, None]
        classes = torch.where(valid, found.classes.gather(1, indices) + CLASS_OFFSET, 0)
        return torch.where(valid[:, :, None], boxes, 0.0), scores, classes, count


class Normalization(nn.Module):
    """Bytes to network input, as `preprocess` computes it."""

    def __init__(self, config: EfficientDetConfig) -> None:
        super().__init__()
        self.kind = config.normalization
        for name in ("mean_rgb", "std_rgb"):
            self.register_buffer(name, torch.tensor(getattr(config, name))[:, None, None], persistent=False)
        self.mean_rgb: Tensor
        self.std_rgb: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, H, W, 3) uint8 to (B, 3, H, W) float32."""
        pixels = images.permute(0, 3, 1, 2).float()
        if self.kind != "advprop":
            pixels = (pixels - self.mean_rgb) / self.std_rgb
        return pixels if self.kind == "mean_std" else pixels * 2 / 255 - 1


def exportable(model: EfficientDet, interface: Interface) -> nn.Module:
    """Return the module to export, in eval mode.

    Raises:
        ConfigError: Detections need one image size, because the anchors depend on it; or the size does not fit.
    """
    network = ExportedNetwork(copy.deepcopy(model).half() if interface.precision == "float16" else model, interface)
    if interface.outputs == "network":
        return network.eval()
    if interface.image_size is None:
        raise ConfigError("detections need one image size, because the anchors depend on it; pass --image-size WxH")
    config = replace(model.config, image_size=interface.image_size)
    return ExportedDetector(network, config, profile_from(interface.profile)).eval()
