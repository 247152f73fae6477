"""A converted model inside MMDetection: one test step, losses, and COCO's metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effdet_torch import Predictor, create_model, save_model
from effdet_torch.errors import UsageError

pytestmark = [pytest.mark.guest, pytest.mark.filterwarnings("default")]
NAMES = ("cat", "dog", "bird")
CLASSES = ("bird", "cat")  # in another order than the model's, and one fewer
SIZE = (48, 64)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = create_model("d0", num_classes=3, image_size=256, label_map=dict(enumerate(NAMES, 1)))
    with torch.no_grad():
        model.class_net.predict.conv_pw.weight.normal_()  # classes mix
        model.class_net.predict.conv_pw.bias.zero_()
    save_model(model, tmp_path / "model.pth")
    return tmp_path / "model.pth"


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


def build(checkpoint: Path, **settings: Any) -> Any:
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules

    import effdet_torch.integrations.mmdet_detector  # noqa: F401

    register_all_modules()
    return MODELS.build({"type": "EffdetDetector", "checkpoint": str(checkpoint), **settings}).eval()


def packed(image: np.ndarray, scale: float = 1.0) -> dict[str, list[Any]]:
    """Return what MMDetection's loader gives for an image: BGR, resized, with its annotations."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    height, width = (round(side * scale) for side in image.shape[:2])
    pixels = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)
    if scale != 1:
        pixels = torch.nn.functional.interpolate(pixels[None].float(), (height, width), mode="bilinear")[0].byte()
    sample = DetDataSample(
        metainfo={
            "img_shape": (height, width),
            "ori_shape": image.shape[:2],
            "scale_factor": (scale, scale),
            "img_id": 7,
        }
    )
    boxes = torch.tensor([[4.0, 5.0, 30.0, 33.0]]) * scale
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([1]))
    return {"inputs": [pixels], "data_samples": [sample]}


def test_a_test_step_gives_our_detections(checkpoint: Path, image: np.ndarray) -> None:
    profile = "official-eval-hard"  # takes every class of an anchor
    (sample,) = build(checkpoint, classes=CLASSES, profile=profile).test_step(packed(image))
    expected = Predictor(checkpoint, score_threshold=0, fused=False, profile=profile)([image])[0]
    kept = [name in CLASSES for name in expected.names]
    names = [CLASSES[label] for label in sample.pred_instances.labels.tolist()]
    assert names == [name for name in expected.names if name in CLASSES]
    torch.testing.assert_close(sample.pred_instances.scores, torch.from_numpy(expected.scores[kept]), atol=1e-5, rtol=0)
    inside = np.clip(expected.boxes_xyxy[kept], 0, [SIZE[1], SIZE[0]] * 2)
    torch.testing.assert_close(sample.pred_instances.bboxes, torch.from_numpy(inside).float(), atol=1e-2, rtol=0)
    (swapped,) = build(checkpoint, classes=CLASSES[::-1], profile=profile).test_step(packed(image))  # negative control
    assert swapped.pred_instances.labels.tolist() != sample.pred_instances.labels.tolist()


def test_boxes_refer_to_the_original_image(checkpoint: Path, image: np.ndarray) -> None:
    detector = build(checkpoint)
    (twice,) = detector.test_step(packed(image, scale=2.0))
    assert twice.pred_instances.bboxes[:, 2].max() <= SIZE[1] + 1e-3
    data = detector.data_preprocessor(packed(image, scale=2.0))
    (raw,) = detector.predict(data["inputs"], data["data_samples"], rescale=False)
    torch.testing.assert_close(raw.pred_instances.bboxes, 2 * twice.pred_instances.bboxes)


def test_losses_train(checkpoint: Path, image: np.ndarray) -> None:
    from mmengine.optim import OptimWrapper

    save_model(create_model("d0", num_classes=3, image_size=256, label_map=dict(enumerate(NAMES, 1))), checkpoint)

    detector = build(checkpoint, classes=CLASSES).train()
    optimizer = OptimWrapper(torch.optim.SGD(detector.parameters(), lr=0.01))
    totals = [float(detector.train_step(packed(image), optimizer)["loss"]) for _ in range(6)]
    assert totals[-1] < totals[0]
    log = detector.train_step(packed(image), optimizer)
    assert {"loss", "loss_cls", "loss_bbox"} <= set(log)


def test_coco_metric_counts_them(checkpoint: Path, image: np.ndarray, tmp_path: Path) -> None:
    import json

    from mmdet.evaluation import CocoMetric

    detector = build(checkpoint, classes=CLASSES)
    (sample,) = detector.test_step(packed(image))
    best = sample.pred_instances[:1]
    xmin, ymin, xmax, ymax = best.bboxes[0].tolist()
    box = {"id": 1, "image_id": 7, "category_id": int(best.labels[0]) + 1, "iscrowd": 0}
    box |= {"bbox": [xmin, ymin, xmax - xmin, ymax - ymin], "area": (xmax - xmin) * (ymax - ymin)}
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    images = [{"id": 7, "file_name": "x.jpg", "height": SIZE[0], "width": SIZE[1]}]
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "annotations": [box], "categories": categories}))
    metric = CocoMetric(ann_file=str(tmp_path / "truth.json"), metric="bbox")
    metric.dataset_meta = {"classes": CLASSES}
    metric.process({}, [sample.to_dict()])
    assert metric.evaluate(size=1)["coco/bbox_mAP_50"] == 1.0
    sample.pred_instances.bboxes += 40  # negative control
    metric.process({}, [sample.to_dict()])
    assert metric.evaluate(size=1)["coco/bbox_mAP_50"] < 1.0


def test_raw_outputs_and_features(checkpoint: Path, image: np.ndarray) -> None:
    detector = build(checkpoint)
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    logits, deltas = detector(batch, mode="tensor")
    assert (len(logits), len(deltas)) == (5, 5)
    assert [feature.shape[1] for feature in detector.extract_feat(batch)] == [64] * 5


def test_a_name_that_the_model_lacks(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="no class 'horse'; it has cat, dog, bird"):
        build(checkpoint, classes=("horse",))


def test_a_name_of_two_classes(checkpoint: Path) -> None:
    """One label stands for one class; the objects of the other one would be lost."""
    save_model(create_model("d0", num_classes=3, label_map={1: "cat", 2: "cat", 3: "dog"}), checkpoint)
    with pytest.raises(UsageError, match="has the class 'cat' twice, as categories 1 and 2"):
        build(checkpoint, classes=("cat", "dog"))
    assert build(checkpoint, classes=("dog",)).categories.tolist() == [3]


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_without_a_name(checkpoint: Path, image: np.ndarray, label: int) -> None:
    detector, batch = build(checkpoint, classes=CLASSES), packed(image)
    batch["data_samples"][0].gt_instances.labels[:] = label
    data = detector.data_preprocessor(batch, training=True)
    with pytest.raises(UsageError, match=f"has values {label} to {label}; expected 0 to 1"):
        detector.loss(data["inputs"], data["data_samples"])


def test_pixels_must_not_be_normalised(checkpoint: Path, image: np.ndarray) -> None:
    preprocessor = {"type": "DetDataPreprocessor", "mean": [123.0] * 3, "std": [58.0] * 3, "bgr_to_rgb": True}
    with pytest.raises(UsageError, match="not normalised"):
        build(checkpoint, data_preprocessor=preprocessor).test_step(packed(image))
