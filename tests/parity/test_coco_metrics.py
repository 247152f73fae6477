"""AP and detections of the trained model on 50 images of COCO, against those of the official code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from converter.plan.copies import ViewName
from effdet_torch.config import EfficientDetConfig
from effdet_torch.data.coco_dataset import CocoImages, CocoSplit, read_split
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.geometry.boxes import decode_boxes_xyxy
from effdet_torch.inference.postprocess import postprocess
from effdet_torch.inference.preprocess import preprocess
from effdet_torch.metrics.coco_metrics import METRICS, coco_metrics
from effdet_torch.network.checkpoint import load_model
from verify.detection_results import StageResult
from verify.detections.matching import compare_detections
from verify.detections.results_file import read_results
from verify.detections.run import CocoSettings, detect_images, evaluate_coco, to_coco
from verify.detections.stages import compare_stages

METRIC_ERROR = 5e-4
Results = list[dict[str, Any]]
CASES = {
    "official-eval": "perclass5000_gaussian",
    "official-eval-hard": "perclass5000_hard",
    "serving": "global_gaussian",
    "serving-hard": "global_hard",
}


@pytest.fixture(scope="module")
def models(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The trained checkpoint, converted: averages and raw values."""
    folder = tmp_path_factory.mktemp("models")
    views: tuple[ViewName, ...] = ("ema", "raw")
    with open_checkpoint(shared / "trained_d0_256") as source:
        for view in views:
            convert_checkpoint(prepare(source, weights=view), folder / f"{view}.pth")
    return {view: folder / f"{view}.pth" for view in views}


@pytest.fixture(scope="module")
def split(shared: Path) -> CocoSplit:
    return read_split(shared / "coco50")


@pytest.fixture(scope="module")
def found(models: dict[str, Path], split: CocoSplit) -> dict[str, Results]:
    """What the averages detect with every profile; the network runs once."""
    model = load_model(models["ema"])
    anchors, size = make_anchors_yxyx(model.config), model.config.image_size
    results: dict[str, Results] = {profile: [] for profile in CASES}
    with torch.inference_mode():
        for image_id, pixels, scale in map(CocoImages(split.images, model.config).__getitem__, range(50)):
            outputs = model(pixels[None])
            for profile, collected in results.items():
                detections = postprocess(*outputs, anchors, scale[None], size, profile)
                collected += to_coco([image_id], detections)[image_id]
    return results


def official(shared: Path, view: str, profile: str) -> tuple[Results, dict[str, float]]:
    """Return the official detections and metrics."""
    folder = shared / "trained_d0_256" / "detections"
    name = f"{view}_pil_{CASES[profile]}"
    return read_results(folder / f"det_{name}.json"), json.loads((folder / "metrics.json").read_text())[name]


def assert_metrics(metrics: dict[str, float], expected: dict[str, float]) -> None:
    assert tuple(metrics) == METRICS == tuple(expected)
    assert {name: value for name, value in metrics.items() if abs(value - expected[name]) > METRIC_ERROR} == {}


@pytest.mark.parametrize("profile", CASES)
def test_metrics_and_detections(shared: Path, split: CocoSplit, found: dict[str, Results], profile: str) -> None:
    expected, metrics = official(shared, "ema", profile)
    assert_metrics(coco_metrics(split.dataset, found[profile], split.image_ids), metrics)
    parity = compare_detections(found[profile], expected, split.image_ids, profile, split.dataset)
    assert parity.expected > 900
    assert parity.matched_share >= 0.995
    assert abs(parity.ap_difference or 0.0) <= METRIC_ERROR
    assert parity.passed


@pytest.mark.parametrize("profile", CASES)
def test_our_metrics_of_the_official_detections(shared: Path, split: CocoSplit, profile: str) -> None:
    for view in ("ema", "raw") if profile == "official-eval" else ("ema",):
        expected, metrics = official(shared, view, profile)
        computed = coco_metrics(split.dataset, expected, split.image_ids)
        assert computed == pytest.approx(metrics, abs=1e-6)


def test_other_profiles_and_views_are_told_apart(shared: Path, split: CocoSplit, found: dict[str, Results]) -> None:
    """Negative control: neither the other NMS nor the raw weights pass for the averages with the official NMS."""
    for view, profile in (("ema", "serving"), ("ema", "official-eval-hard"), ("raw", "official-eval")):
        expected, _ = official(shared, view, profile)
        parity = compare_detections(found["official-eval"], expected, split.image_ids, profile)
        assert not parity.passed, (view, profile, parity)


def test_a_shifted_category_is_found(shared: Path, split: CocoSplit, found: dict[str, Results]) -> None:
    """Negative control: the class channel taken for the category id."""
    expected, metrics = official(shared, "ema", "official-eval")
    shifted = [x | {"category_id": x["category_id"] - 1} for x in found["official-eval"]]
    assert coco_metrics(split.dataset, shifted, split.image_ids)["AP"] < 0.1 * metrics["AP"]
    assert compare_detections(shifted, expected, split.image_ids, "x").matched_share < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("view", ["ema", "raw"])
def test_the_whole_evaluation(shared: Path, models: dict[str, Path], view: str) -> None:
    evaluation = evaluate_coco(models[view], shared / "coco50", CocoSettings())
    assert evaluation is not None
    assert evaluation.complete
    assert_metrics(dict(evaluation.metrics), official(shared, view, "official-eval")[1])


def test_batch_and_workers_change_nothing(models: dict[str, Path], split: CocoSplit, found: dict[str, Results]) -> None:
    """Number, order and every digit of the JSON."""
    model, images = load_model(models["ema"]), split.images[:8]
    expected = [x for x in found["official-eval"] if x["image_id"] in {image.image_id for image in images}]
    for batch, workers in ((1, 2), (8, 0)):
        settings = CocoSettings(batch=batch, workers=workers)
        batches = list(detect_images(model, images, settings))
        results = [x for part in batches for detections in part.values() for x in detections]
        assert len(batches) == -(-8 // batch)
        assert json.dumps(results) == json.dumps(expected)


def test_stages_against_tensorflow(shared: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow")
    evaluation = evaluate_coco(models["ema"], shared / "coco50", CocoSettings(limit=1, workers=0))
    assert evaluation is not None

    def stages() -> list[StageResult]:
        with open_checkpoint(shared / "trained_d0_256") as source:
            return list(compare_stages(evaluation, source, "official-eval")[0])

    right = stages()
    assert [stage.stage for stage in right if stage.passed] == ["pixels", "logits", "boxes", "NMS", "metric"]
    assert right[0].error < 1e-5
    # Negative controls: whatever is wrong fails in its own stage and in no other.
    with monkeypatch.context() as patch:
        patch.setattr("effdet_torch.data.coco_dataset.preprocess", swapped_colours)
        assert failed(stages()) == ["pixels"]
    with monkeypatch.context() as patch:
        patch.setattr("verify.detections.stages.decode_boxes_xyxy", lambda *x: decode_boxes_xyxy(*x) + 1)
        assert failed(stages()) == ["boxes"]
    with monkeypatch.context() as patch:
        patch.setattr("verify.detections.stages.postprocess", lambda *x: postprocess(*x[:-1], "serving"))
        assert failed(stages()) == ["NMS"]
    with torch.no_grad():
        evaluation.model.get_parameter("class_net.predict.conv_pw.bias").mul_(1.01)
    assert failed(stages()) == ["logits"]


def swapped_colours(images: Any, config: EfficientDetConfig) -> tuple[torch.Tensor, torch.Tensor]:
    return preprocess([image[:, :, ::-1] for image in images], config)


def failed(stages: list[StageResult]) -> list[str]:
    return [stage.stage for stage in stages if not stage.passed]
