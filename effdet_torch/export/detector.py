"""The modules that are exported: the network alone, or everything from pixels to detections."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from effdet_torch.config import EfficientDetConfig
from effdet_torch.engines.document import Interface, by_head, profile_from
from effdet_torch.errors import ConfigError
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.geometry.boxes import decode_boxes_xyxy
from effdet_torch.geometry.loop_nms import loop_nms
from effdet_torch.network.model import EfficientDet
from effdet_torch.optimize.fuse import fuse
from effdet_torch.processing.postprocess import flatten_levels, postprocess
from effdet_torch.processing.profiles import CLASS_OFFSET, Profile


class ExportedNetwork(nn.Module):
    """Pixels to what the network predicts, as a flat tuple; the network is the submodule `model`."""

    def __init__(self, model: EfficientDet, interface: Interface) -> None:
        super().__init__()
        self.model = fuse(model, widen=False)  # wider kernels are a help for PyTorch's own
        self.input = Normalization(model.config) if interface.pixels == "uint8" else nn.Identity()
        self.is_half = interface.precision == "float16"
        if self.is_half:
            self.model.half()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images, see `Interface.pixels`, to (B, C, H_l, W_l) float32 each, see `Interface.output_names`."""
        pixels = self.input(images)
        return tuple(output.float() for output in tree_leaves(self.model(pixels.half() if self.is_half else pixels)))


class ExportedDetector(nn.Module):
    """Pixels to detections, in pixels of the network input."""

    def __init__(self, network: ExportedNetwork, config: EfficientDetConfig, profile: Profile) -> None:
        super().__init__()
        self.network, self.profile, self.image_size = network, profile, config.image_size
        self.num_classes = config.num_classes
        self.register_buffer("anchors_yxyx", make_anchors_yxyx(config), persistent=False)
        self.anchors_yxyx: Tensor

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map images to boxes, scores, classes and their number, see `processing.postprocess.Detections`."""
        class_logits, box_deltas = by_head(self.network(images), self.network.model.config)
        scales = torch.ones(images.shape[0], device=images.device)
        found = postprocess(
            class_logits, box_deltas, self.anchors_yxyx, scales, self.image_size, self.profile, loop_nms
        )
        return found[:4]  # a plain tuple: files must not refer to a class of ours


class TensorRtDetector(ExportedDetector):
    """Pixels to detections with TensorRT's own NMS, which is hard, of all anchors and no operator of ONNX."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map images to detections, see `ExportedDetector`."""
        class_logits, box_deltas = by_head(self.network(images), self.network.model.config)
        boxes = decode_boxes_xyxy(flatten_levels(box_deltas, 4), self.anchors_yxyx)
        logits = flatten_levels(class_logits, self.num_classes)
        batch, profile = images.shape[0], self.profile
        settings: dict[str, Any] = {
            "background_class": -1,
            "box_coding": 0,  # corners
            "class_agnostic": int(not profile.per_class),
            "iou_threshold": profile.iou_threshold,
            "max_output_boxes": profile.max_detections,
            "plugin_version": "1",
            "score_activation": 1,  # a sigmoid of its own
            "score_threshold": max(profile.score_threshold, 0.0),
        }
        count, boxes, scores, classes = torch.onnx.ops.symbolic_multi_out(
            "TRT::EfficientNMS_TRT",
            (boxes, logits),
            settings,
            dtypes=(torch.int32, torch.float32, torch.float32, torch.int32),
            shapes=((batch, 1), (batch, profile.max_detections, 4), *[(batch, profile.max_detections)] * 2),
            version=1,
        )
        return boxes, scores, classes.long() + CLASS_OFFSET, count[:, 0].long()


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


def exportable(
    model: EfficientDet, interface: Interface, detector: type[ExportedDetector] = ExportedDetector
) -> nn.Module:
    """Return the module to export, in eval mode.

    Args:
        model: in float32.
        interface: of the file.
        detector: makes the detections, if the file has them inside.

    Raises:
        ConfigError: Detections need one image size, because the anchors depend on it; or the size does not fit.
    """
    network = ExportedNetwork(model, interface)
    if interface.outputs == "network":
        return network.eval()
    if interface.image_size is None:
        raise ConfigError("detections need one image size, because the anchors depend on it; pass --image-size WxH")
    config = replace(model.config, image_size=interface.image_size)
    return detector(network, config, profile_from(interface.profile)).eval()
