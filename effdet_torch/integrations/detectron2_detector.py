"""The contract of Detectron2's models: a list of dictionaries in, `Instances` or losses out.

    detector = as_detectron2(load_model("d0.pth"), classes=MetadataCatalog.get("coco_2017_val").thing_classes)
    (found,) = detector([{"image": image, "height": 480, "width": 640}])
    found["instances"].pred_boxes

Detectron2 has its own resizing; a mapper without it saves one of two, because the network's own preprocessing follows.

Source: Detectron2's documentation, "Use Models": model input and output format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from effdet_torch.checks import require_type
from effdet_torch.errors import ConfigError, UsageError
from effdet_torch.integrations.class_labels import categories_of, label_categories, labelled, plain_boxes
from effdet_torch.integrations.torchvision_detector import WHITE, TorchvisionDetector, as_torchvision
from effdet_torch.network.model import EfficientDet
from effdet_torch.processing.profiles import OWN, Profile

Input = Mapping[str, Any]
FORMATS = ("BGR", "RGB")


class Detectron2Detector(nn.Module):
    """A model with Detectron2's contract; made by `as_detectron2`.

    Attributes:
        detector: the model with torchvision's contract, which does the work.
        categories: (L,) the model's category of every label.
    """

    categories: Tensor

    def __init__(self, detector: TorchvisionDetector, categories: Tensor, is_bgr: bool) -> None:
        super().__init__()
        self.detector, self.is_bgr = detector, is_bgr
        self.register_buffer("categories", categories.to(self.device), persistent=False)
        self.train(detector.training)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.detector.anchors_yxyx.device

    def forward(self, batched_inputs: Sequence[Input]) -> list[dict[str, Any]] | dict[str, Tensor]:
        """Detect objects, or return losses in training mode.

        Args:
            batched_inputs: for every image a dictionary with `image` (3, H, W), 0..255, uint8 or floating point, in the
                format that the model was made for. In evaluation mode `height` and `width` of the output, by default
                those of the image; in training mode `instances` with `gt_boxes` (xmin, ymin, xmax, ymax in pixels of
                `image`) and `gt_classes`, labels from 0.

        Returns:
            In evaluation mode for every image {"instances": Instances} with `pred_boxes`, `scores` and `pred_classes`
            (labels from 0), best first, in pixels of the output. Detections of classes that have no label are left out.
            In training mode the losses `loss_cls` and `loss_box_reg`.

        Raises:
            UsageError: An image has another shape, type or range; or `instances` are missing in training mode.
        """
        require_type(batched_inputs, Sequence, "batched_inputs", "a list with a dictionary for every image")
        images = [self._prepared(one, index) for index, one in enumerate(batched_inputs)]
        if self.training:
            losses = self.detector.losses(
                images, [self._target(one, index) for index, one in enumerate(batched_inputs)]
            )
            return {"loss_cls": losses["classification"], "loss_box_reg": losses["bbox_regression"]}
        found = self.detector.detect(images)
        return [self._instances(*pair) for pair in zip(found, batched_inputs, strict=True)]

    def _prepared(self, one: Input, index: int) -> Tensor:
        """Return an image as RGB in 0..1, or as uint8."""
        require_type(one, Mapping, f"the input {index}", "a dictionary with image (3, H, W)")
        if "image" not in one:
            raise UsageError(f"the input {index} has no image; expected a tensor (3, H, W)")
        image: Tensor = one["image"]
        require_type(image, Tensor, f"the image {index}", "a tensor (3, H, W)")
        if image.ndim != 3 or image.shape[0] != 3:
            raise UsageError(f"the image {index} has the shape {tuple(image.shape)}; expected (3, H, W)")
        rgb = image.flip(0) if self.is_bgr else image
        return rgb if rgb.dtype == torch.uint8 else rgb.float() / WHITE

    def _target(self, one: Input, index: int) -> dict[str, Tensor]:
        if "instances" not in one:
            raise UsageError(f"the input {index} has no instances, which are needed in training mode")
        instances = one["instances"]
        boxes, labels = (getattr(instances, name, None) for name in ("gt_boxes", "gt_classes"))
        categories = categories_of(labels, self.categories, f"gt_classes of the input {index}")
        return {"boxes": plain_boxes(boxes), "labels": categories}

    def _instances(self, found: Mapping[str, Tensor], one: Input) -> dict[str, Any]:
        from detectron2.structures import Boxes, Instances

        (height, width), own = one["image"].shape[-2:], labelled(found, self.categories)
        size = int(one.get("height", height)), int(one.get("width", width))
        scales = own["boxes"].new_tensor([size[1] / width, size[0] / height]).repeat(2)
        boxes, fields = Boxes(own["boxes"] * scales), {"scores": own["scores"], "pred_classes": own["labels"]}
        return {"instances": Instances(size, pred_boxes=boxes, **fields)}


def as_detectron2(
    model: EfficientDet,
    *,
    classes: Sequence[str] | None = None,
    image_format: Literal["BGR", "RGB"] = "BGR",
    profile: str | Profile = OWN,
    score_threshold: float = 0.05,
) -> Detectron2Detector:
    """Return a model in the shape of Detectron2's models, see `Detectron2Detector`.

    Args:
        model: the network; it is used, not copied.
        classes: names of Detectron2's labels 0, 1, ..., usually the data set's `thing_classes`; see `label_categories`.
        image_format: of the channels, Detectron2's `INPUT.FORMAT`, whose default is BGR.
        profile: how detections are made, see `Predictor`.
        score_threshold: detections below it are left out; Detectron2's own default.

    Raises:
        UsageError: `model` is something else, or has no class of one of the names.
        ConfigError: The profile or the format does not exist.
    """
    if image_format not in FORMATS:
        raise ConfigError(f"image_format is {image_format!r}; expected one of {', '.join(FORMATS)}")
    detector = as_torchvision(model, profile=profile, score_threshold=score_threshold)
    categories = label_categories(classes, model.config, model.config.name)
    return Detectron2Detector(detector, categories, image_format == "BGR")
