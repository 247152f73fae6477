"""The contract of torchvision's detection models: lists of images in, dictionaries of detections or losses out.

SAHI, FiftyOne, torchmetrics and training loops written for `fasterrcnn_resnet50_fpn` take such a model.

Source: torchvision's documentation of `torchvision.models.detection.retinanet_resnet50_fpn`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from effdet_torch.checks import require_type
from effdet_torch.errors import NonFiniteOutputError, UsageError
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.inference.labels import own_names
from effdet_torch.inference.nonfinite import cause_in
from effdet_torch.inference.selection import Selection
from effdet_torch.integrations.class_labels import require_labels
from effdet_torch.network.model import EfficientDet
from effdet_torch.processing.postprocess import postprocess, scales_of_boxes
from effdet_torch.processing.preprocess import preprocess
from effdet_torch.processing.profiles import OWN, Profile, get_profile
from effdet_torch.train.objective import DetectionLoss, TargetAssigner
from effdet_torch.train.recipe import Recipe, make_recipe

SCORE_THRESHOLD = 0.05  # torchvision's own default
WHITE = 255.0


class TorchvisionDetector(nn.Module):
    """A model with torchvision's contract: images of any sizes, boxes in their own pixels, losses in training mode.

    Attributes:
        model: the network, which this module moves and trains with itself.
        names: {label: name} of all labels.
    """

    anchors_yxyx: Tensor

    def __init__(self, model: EfficientDet, profile: Profile, score_threshold: float, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.profile, self.score_threshold = model, profile, score_threshold
        named = own_names(model.config)
        self.names = {label: named.get(label, f"class {label}") for label in range(1, model.config.num_classes + 1)}
        self.assign, self.loss = TargetAssigner(model.config), DetectionLoss(recipe, model.config)
        device = next(model.parameters()).device
        self.register_buffer("anchors_yxyx", make_anchors_yxyx(model.config, device), persistent=False)
        self.train(model.training)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TorchvisionDetector:
        """Move or cast the module as usual, but never round the anchors: `half()` would move boxes by pixels."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.anchors_yxyx = make_anchors_yxyx(self.model.config, self.anchors_yxyx.device)
        self.loss.anchors_yxyx = self.anchors_yxyx
        return self

    def forward(
        self, images: Iterable[Tensor], targets: Iterable[Mapping[str, Tensor]] | None = None
    ) -> list[dict[str, Tensor]] | dict[str, Tensor]:
        """Detect objects, or return losses in training mode.

        Args:
            images: RGB, (3, height, width) each, floating point in 0..1 or uint8, on any device; they are resized to
                the model's size.
            targets: in training mode, for every image `boxes` (N, 4) as (xmin, ymin, xmax, ymax) in its pixels, with
                an area, and `labels` (N,) int64 from 1; N may be 0. In evaluation mode they are not looked at.

        Returns:
            In evaluation mode for every image `boxes` (N, 4) float32 in its pixels, inside it and with an area,
            `labels` (N,) int64 (class channel + 1: COCO's ids for the official models) and `scores` (N,) float32, best
            first. In training mode the losses `classification` and `bbox_regression`, whose sum is the loss of the
            recipe.

        Raises:
            UsageError: An image or target has another shape, type or range; or targets are missing in training mode.
            NonFiniteOutputError: The network returned NaN or infinity.
        """
        return self.losses(images, targets) if self.training else self.detect(images)

    @torch.no_grad()
    def detect(self, images: Iterable[Tensor]) -> list[dict[str, Tensor]]:
        """Return detections, as `forward` does in evaluation mode."""
        images = _listed(images, "images")
        batch, scales = self.prepared(images)
        logits, deltas = self.model(batch)
        size = self.model.config.image_size
        found = postprocess(logits, deltas, self.anchors_yxyx, scales, size, self.profile)
        if not found.is_finite.all():
            cause = f"the network returned NaN or infinity; {cause_in(self.model, batch.dtype)}"
            raise NonFiniteOutputError(found.is_finite.tolist().index(False), cause)
        results = []
        for image, boxes, scores, labels in zip(images, found.boxes_xyxy, found.scores, found.classes, strict=True):
            height, width = image.shape[-2:]
            largest = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
            inside = boxes.clamp(min=0).minimum(largest)
            has_area = (inside[:, 2:] > inside[:, :2]).all(dim=1)
            kept = has_area & (labels > 0) & (scores >= self.score_threshold)  # padding has the label 0
            results.append({"boxes": inside[kept], "labels": labels[kept], "scores": scores[kept]})
        return results

    def losses(self, images: Iterable[Tensor], targets: Iterable[Mapping[str, Tensor]] | None) -> dict[str, Tensor]:
        """Return losses, as `forward` does in training mode."""
        batch, scales = self.prepared(images)
        targets = [] if targets is None else _listed(targets, "targets")
        if len(targets) != len(batch):
            found = len(targets) or "none"
            raise UsageError(f"{len(batch)} images and targets: {found}; expected targets for every image")
        for index, target in enumerate(targets):
            _require_target(target, index, self.model.config.num_classes)
        factors = scales_of_boxes(scales)[:, 0]  # (B, 1) or (B, 4)
        boxes = [
            target["boxes"].to(batch.device).float() / factor for target, factor in zip(targets, factors, strict=True)
        ]
        assigned = self.assign(boxes, [target["labels"].to(batch.device) for target in targets])
        losses = self.loss(*self.model(batch), assigned)
        return {"classification": losses.classes, "bbox_regression": losses.total - losses.classes}

    def prepared(self, images: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """Return images as network input (B, 3, H, W) and their scales (B,) or (B, 4), see `preprocess`."""
        images = _listed(images, "images")
        for index, image in enumerate(images):
            _require_image(image, index)
        pixels = [image if image.dtype == torch.uint8 else image.float() * WHITE for image in images]
        device = self.anchors_yxyx.device
        batch, scales = preprocess([image.permute(1, 2, 0) for image in pixels], self.model.config, device)
        return batch.to(next(self.model.parameters()).dtype), scales


def as_torchvision(
    model: EfficientDet,
    *,
    profile: str | Profile = OWN,
    score_threshold: float = SCORE_THRESHOLD,
    recipe: Recipe | None = None,
) -> TorchvisionDetector:
    """Return a model in the shape of torchvision's detection models, see `TorchvisionDetector`.

    Args:
        model: the network; it is used, not copied.
        profile: how detections are made, see `Predictor`.
        score_threshold: detections below it are left out; 0 keeps all, which metrics need.
        recipe: supplies the settings of the losses; by default those of `effdet-train`.

    Raises:
        UsageError: An argument is of another type, or the model has a segmentation head, for which torchvision has no
            output.
        ConfigError: The profile does not exist, or the score is not in 0..1.
    """
    require_type(model, EfficientDet, "model", "an EfficientDet, which load_model and create_model return")
    if model.config.segments:
        raise UsageError(
            f"{model.config.name} has a segmentation head, for which torchvision's detection models have no output; "
            "Predictor returns boxes and masks"
        )
    require_type(recipe, (Recipe, type(None)), "recipe", "a Recipe, which make_recipe returns")
    Selection(score_threshold)  # refuses what is not a score
    chosen = get_profile(profile, model.config)
    return TorchvisionDetector(model, chosen, score_threshold, make_recipe() if recipe is None else recipe)


def _listed(given: Iterable[Any], name: str) -> list[Any]:
    """Return a list of what may be read only once."""
    expected = "a list with one for every image"
    require_type(given, Iterable, name, expected)
    if isinstance(given, str | Mapping):  # both can be read, as letters and keys
        raise UsageError(f"{name} is of type {type(given).__name__}; expected {expected}")
    return list(given)


def _require_image(image: Tensor, index: int) -> None:
    require_type(image, Tensor, f"images[{index}]", "a tensor (3, height, width), RGB")
    if image.ndim != 3 or image.shape[0] != 3:
        raise UsageError(f"images[{index}] has the shape {tuple(image.shape)}; expected (3, height, width), RGB")
    if image.dtype == torch.uint8:
        return
    if not image.is_floating_point():
        raise UsageError(f"images[{index}] is {image.dtype}; expected floating point in 0..1, or uint8")
    if image.numel() and not (float(image.min()) >= 0 and float(image.max()) <= 1):
        raise UsageError(
            f"images[{index}] has values from {float(image.min()):g} to {float(image.max()):g}; expected 0..1, not "
            "normalised: the model does that itself"
        )


def _require_target(target: Mapping[str, Tensor], index: int, num_classes: int) -> None:
    require_type(target, Mapping, f"targets[{index}]", "a dictionary with boxes (N, 4) and labels (N,)")
    if missing := [key for key in ("boxes", "labels") if key not in target]:
        raise UsageError(f"targets[{index}] has no {missing[0]!r}; expected boxes (N, 4) and labels (N,)")
    boxes, labels = target["boxes"], target["labels"]
    for name, value in (("boxes", boxes), ("labels", labels)):
        require_type(value, Tensor, f"targets[{index}][{name!r}]", "a tensor")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        found = f"boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}"
        raise UsageError(f"targets[{index}] has {found}; expected (N, 4) and (N,)")
    require_labels(labels, f"targets[{index}]['labels']", range(1, num_classes + 1))
    empty = ~(boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    if empty.any():
        raise UsageError(
            f"targets[{index}] has the box {boxes[empty][0].tolist()}; expected (xmin, ymin, xmax, ymax) with an area: "
            "leave empty boxes out, and convert those by width and height"
        )
