"""A detector of MMDetection: `type="EffdetDetector"` in a config that imports this module.

    custom_imports = dict(imports=["effdet_torch.integrations.mmdet_detector"])
    model = dict(type="EffdetDetector", checkpoint="d0.pth", classes=("person", "bicycle", ...))

Its pipelines need no `Resize` and no `Normalize`: the network's own preprocessing follows. With a `Resize`, boxes come
back in pixels of the original image, as MMDetection expects them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor

from effdet_torch.integrations.class_labels import categories_of, label_categories, labelled, plain_boxes
from effdet_torch.integrations.torchvision_detector import WHITE, as_torchvision
from effdet_torch.network.checkpoint import load_model
from effdet_torch.processing.profiles import OWN

# MMDetection reads images as BGR; everything else is the network's own preprocessing.
PREPROCESSOR = {"type": "DetDataPreprocessor", "bgr_to_rgb": True}


@MODELS.register_module()
class EffdetDetector(BaseDetector):  # type: ignore[misc]
    """An EfficientDet with MMDetection's interface: losses, predictions and raw outputs.

    Args:
        checkpoint: a converted file.
        classes: names of MMDetection's labels 0, 1, ..., usually the dataset's `METAINFO["classes"]`; each must be the
            name of a class of the model. None: label 0 is the model's first class channel, and so on.
        score_threshold: detections below it are left out; 0 keeps all, which metrics need.
        profile: how detections are made, see `Predictor`.
        data_preprocessor: MMDetection's; it must leave pixels in 0..255.
        init_cfg: not used: the weights are those of `checkpoint`.

    Raises:
        UsageError: The model has no class of one of the names.
        ModelFileError: The checkpoint cannot be read.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        classes: Sequence[str] | None = None,
        score_threshold: float = 0.0,
        profile: str = OWN,
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor or PREPROCESSOR, init_cfg=init_cfg)
        model = load_model(checkpoint)
        self.detector = as_torchvision(model, profile=profile, score_threshold=score_threshold)
        self.register_buffer("categories", label_categories(classes, model.config, str(checkpoint)), persistent=False)

    def loss(self, batch_inputs: Tensor, batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Return `loss_cls` and `loss_bbox` of images (B, 3, H, W), 0..255, with their `gt_instances`."""
        targets = [
            {
                "boxes": plain_boxes(sample.gt_instances.bboxes),
                "labels": categories_of(sample.gt_instances.labels, self.categories, f"gt_instances {index}: labels"),
            }
            for index, sample in enumerate(batch_data_samples)
        ]
        losses = self.detector.losses(self._images(batch_inputs, batch_data_samples), targets)
        return {"loss_cls": losses["classification"], "loss_bbox": losses["bbox_regression"]}

    def predict(self, batch_inputs: Tensor, batch_data_samples: Sequence[Any], rescale: bool = True) -> Sequence[Any]:
        """Return the samples with `pred_instances`: bboxes (N, 4) as (xmin, ymin, xmax, ymax), scores and labels (N,).

        Detections of classes that have no label are left out.
        """
        found = self.detector.detect(self._images(batch_inputs, batch_data_samples))
        results = []
        for detections, sample in zip(found, batch_data_samples, strict=True):
            own = labelled(detections, self.categories)
            boxes = own["boxes"]
            if rescale and "scale_factor" in sample:
                boxes = boxes / boxes.new_tensor(sample.scale_factor).repeat(2)
            results.append(InstanceData(bboxes=boxes, scores=own["scores"], labels=own["labels"]))
        samples: Sequence[Any] = self.add_pred_to_datasample(batch_data_samples, results)
        return samples

    def _forward(self, batch_inputs: Tensor, batch_data_samples: Sequence[Any] | None = None) -> Any:
        """Return the network's outputs for images (B, 3, H, W), 0..255."""
        return self.detector.model(self._prepared(batch_inputs))

    def extract_feat(self, batch_inputs: Tensor) -> list[Tensor]:
        """Return the features of the pyramid, fine to coarse."""
        model = self.detector.model
        features: list[Tensor] = model.fpn(model.backbone(self._prepared(batch_inputs)))
        return features

    def _prepared(self, batch_inputs: Tensor) -> Tensor:
        return self.detector.prepared(list(batch_inputs / WHITE))[0]

    @staticmethod
    def _images(batch_inputs: Tensor, samples: Sequence[Any]) -> list[Tensor]:
        """Return the images of a batch without MMDetection's padding, in 0..1."""
        sizes = [sample.img_shape[:2] for sample in samples]
        return [image[:, :height, :width] / WHITE for image, (height, width) in zip(batch_inputs, sizes, strict=True)]
