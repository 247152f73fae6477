"""What surrounds a network on a GPU, in torch: one copy there, one back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import NonFiniteOutputError
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.geometry.nms import non_max_suppression
from effdet_torch.processing.numpy_postprocess import Detections
from effdet_torch.processing.postprocess import postprocess
from effdet_torch.processing.preprocess import RgbImage, preprocess
from effdet_torch.processing.profiles import Profile

Suppress = Callable[..., tuple[Tensor, Tensor, Tensor]]


def one_kernel() -> Suppress | None:
    """Return non-maximum suppression as one kernel, where Triton is installed, which compiles it."""
    if find_spec("triton") is None:
        return None
    from effdet_torch.geometry import triton_nms

    return triton_nms.non_max_suppression


class GpuProcessing:
    """Pre- and postprocessing for networks of one configuration; tensors are on the device."""

    def __init__(self, config: EfficientDetConfig, device: torch.device | str) -> None:
        self._config, self._device = config, torch.device(device)
        self._anchors_yxyx = make_anchors_yxyx(config, device)
        self._suppress = (one_kernel() if self._device.type == "cuda" else None) or non_max_suppression

    def prepare(self, images: Sequence[RgbImage]) -> tuple[Tensor, Tensor]:
        """Return images, arrays or tensors (height, width, 3), as network input (B, 3, H, W), and their scales."""
        return preprocess(images, self._config, self._device)

    @torch.inference_mode()
    def detections(
        self, class_logits: Sequence[Tensor], box_deltas: Sequence[Tensor], image_scales: Tensor, profile: Profile
    ) -> list[Detections]:
        """Turn outputs of a batch per level into the detections of every image.

        Raises:
            NonFiniteOutputError: There is NaN or infinity among them.
        """
        scales, size = torch.as_tensor(image_scales).to(self._device, non_blocking=True), self._config.image_size
        possible = profile.max_candidates if profile.candidates == "top_k" else len(self._anchors_yxyx)
        # Every detection that is asked for takes memory, whether it is made or not.
        profile = replace(profile, max_detections=min(profile.max_detections, possible))
        found = postprocess(class_logits, box_deltas, self._anchors_yxyx, scales, size, profile, self._suppress)
        scores = found.scores.where(found.is_finite[:, None], torch.nan)  # one more copy would wait for the GPU again
        columns = (found.boxes_xyxy, scores[:, :, None], found.classes[:, :, None].float())
        packed = torch.cat(columns, dim=2).cpu().numpy()  # (B, M, 6); float32 holds class numbers up to 2^24
        if wrong := np.flatnonzero(np.isnan(packed[:, 0, 4])).tolist():
            raise NonFiniteOutputError(wrong[0])
        images = [rows[rows[:, 5] > 0] for rows in packed]  # padding is class 0
        return [Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype("int64")) for rows in images]
