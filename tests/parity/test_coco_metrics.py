"""AP and detections of the trained model on 50 images of COCO, against those of the official code."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from converter.locate import open_checkpoint
from converter.plan.copies import ViewName
from effdet_torch.data.dataset import DataSet
from effdet_torch.data.sources import read_split
from effdet_torch.geometry.numpy_boxes import decode_boxes_xyxy
from effdet_torch.inference.predict import Predictor
from effdet_torch.metrics.coco import METRICS, coco_metrics
from effdet_torch.metrics.evaluators import EVALUATORS, RECORD
from effdet_torch.processing.numpy_preprocess import preprocess
from support.coco_samples import convert_trained, evaluate_coco
from support.hparams import misread
from verify.detections.matching import compare_detections
from verify.detections.results_file import read_results
from verify.detections.run import CocoSettings
from verify.detections.stages import _worst, compare_stages
from verify.errors import ParityError
from verify.results.detections import StageResult

METRIC_ERROR = 5e-4
Results = list[dict[str, Any]]
CASES = {
    "official-eval": "perclass5000_gaussian",
    "official-eval-hard": "perclass5000_hard",
    "serving": "global_gaussian",
    "serving-hard": "global_hard",
}


@pytest.fixture(scope="module")
def model(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The averages of the trained checkpoint, converted."""
    return convert_trained(shared, tmp_path_factory.mktemp("model") / "ema.pth")


@pytest.fixture(scope="module")
def split(shared: Path) -> DataSet:
    return read_split(shared / "coco50")


@pytest.fixture(scope="module")
def found(model: Path, split: DataSet) -> dict[str, Results]:
    """What the averages detect with every profile; the network runs once."""
    predictor = Predictor(model, device="cpu", score_threshold=0)
    results: dict[str, Results] = {profile: [] for profile in CASES}
    for image in split.images:
        pixels, image_scales = predictor.prepare([image.path], apply_exif=False)
        outputs = predictor.engine(pixels)
        for profile, collected in results.items():
            (detections,) = predictor.detections(*outputs, image_scales, profile)
            collected += detections.to_coco(image.image_id)
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
def test_metrics_and_detections(shared: Path, split: DataSet, found: dict[str, Results], profile: str) -> None:
    expected, metrics = official(shared, "ema", profile)
    assert_metrics(coco_metrics(split.dataset, found[profile], split.image_ids), metrics)
    parity = compare_detections(found[profile], expected, split.image_ids, profile, split.dataset)
    assert parity.expected > 900
    assert parity.matched_share >= 0.995
    assert abs(parity.ap_difference or 0.0) <= METRIC_ERROR
    assert parity.passed
    assert coco_metrics(split.dataset, expected, split.image_ids) == pytest.approx(metrics, abs=1e-6)


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("profile", CASES)
def test_metrics_of_the_official_detections_are_pycocotools_own(
    shared: Path, split: DataSet, profile: str, evaluator: str
) -> None:
    """To the last digit, with pycocotools reading the files itself."""
    if evaluator != RECORD:
        pytest.importorskip(evaluator, reason=f"{evaluator} (extra `fast-eval`) is not installed")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(split.path))
        path = shared / "trained_d0_256" / "detections" / f"det_ema_pil_{CASES[profile]}.json"
        direct = COCOeval(truth, truth.loadRes(str(path)), "bbox")
        direct.evaluate()
        direct.accumulate()
        direct.summarize()
    found = coco_metrics(split.dataset, official(shared, "ema", profile)[0], split.image_ids, evaluator)
    assert list(found.values()) == list(direct.stats)


def test_other_profiles_and_views_are_told_apart(shared: Path, split: DataSet, found: dict[str, Results]) -> None:
    """Negative control: neither the other NMS nor the raw weights pass for the averages with the official NMS."""
    for view, profile in (("ema", "serving"), ("ema", "official-eval-hard"), ("raw", "official-eval")):
        expected, _ = official(shared, view, profile)
        parity = compare_detections(found["official-eval"], expected, split.image_ids, profile)
        assert not parity.passed, (view, profile, parity)


def test_a_shifted_category_is_found(shared: Path, split: DataSet, found: dict[str, Results]) -> None:
    """Negative control: the class channel taken for the category id."""
    expected, metrics = official(shared, "ema", "official-eval")
    shifted = [x | {"category_id": x["category_id"] - 1} for x in found["official-eval"]]
    assert coco_metrics(split.dataset, shifted, split.image_ids)["AP"] < 0.1 * metrics["AP"]
    assert compare_detections(shifted, expected, split.image_ids, "x").matched_share < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("view", ["ema", "raw"])
def test_the_whole_evaluation(shared: Path, tmp_path: Path, view: ViewName) -> None:
    converted = convert_trained(shared, tmp_path / "model.pth", view)
    evaluation = evaluate_coco(converted, shared / "coco50", CocoSettings())
    assert evaluation is not None
    assert evaluation.complete
    assert_metrics(dict(evaluation.metrics), official(shared, view, "official-eval")[1])


@pytest.mark.parametrize(("batch", "workers"), [(1, 2), (8, 0)])
def test_batch_and_workers_change_nothing(
    shared: Path, model: Path, found: dict[str, Results], batch: int, workers: int
) -> None:
    """Number, order and every digit of the JSON."""
    settings = CocoSettings(limit=4, batch=batch, workers=workers)
    evaluation = evaluate_coco(model, shared / "coco50", settings)
    assert evaluation is not None
    expected = [x for x in found["official-eval"] if x["image_id"] in evaluation.split.image_ids]
    assert json.dumps(evaluation.results) == json.dumps(expected)


def test_stages_against_tensorflow(shared: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow")
    evaluation = evaluate_coco(model, shared / "coco50", CocoSettings(limit=1, workers=0))
    assert evaluation is not None
    predictor = evaluation.predictor

    def stages() -> list[StageResult]:
        with open_checkpoint(shared / "trained_d0_256") as source:
            return list(compare_stages(evaluation, source)[0])

    right = stages()
    assert [stage.stage for stage in right if stage.passed] == ["pixels", "logits", "boxes", "NMS", "metric"]
    assert right[0].error < 1e-5
    # Negative controls: whatever is wrong fails in its own stage and in no other.
    with monkeypatch.context() as patch:
        patch.setattr("effdet_torch.processing.cpu.preprocess", swapped_colours)
        assert failed(stages()) == ["pixels"]
    with monkeypatch.context() as patch:
        patch.setattr("verify.detections.stages.decode_boxes_xyxy", lambda *x: decode_boxes_xyxy(*x) + 1)
        assert failed(stages()) == ["boxes"]
    with monkeypatch.context() as patch:
        detections = predictor.detections
        patch.setattr(predictor, "detections", lambda *x: detections(*x, "serving"))
        assert failed(stages()) == ["NMS"]
    with torch.no_grad():
        predictor.model.get_parameter("class_net.predict.conv_pw.bias").mul_(1.01)
    assert failed(stages()) == ["logits"]


def test_stages_of_a_photograph_that_is_turned(shared: Path, model: Path, tmp_path: Path) -> None:
    """TensorFlow's decoder does not turn it, so the reference gets the turned picture."""
    pytest.importorskip("tensorflow")
    content = json.loads((shared / "coco50" / "annotations" / "instances_val2017.json").read_text())
    image = next(x for x in content["images"] if x["id"] == 37777)
    exif = Image.Exif()
    exif[0x112] = 6
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    photograph = Image.open(shared / "coco50" / "val2017" / image["file_name"])
    turned = photograph.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "val2017" / image["file_name"], quality=95, exif=exif)
    content |= {"images": [image], "annotations": [x for x in content["annotations"] if x["image_id"] == 37777]}
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    evaluation = evaluate_coco(model, tmp_path, CocoSettings(limit=1, workers=0))
    assert evaluation is not None
    assert evaluation.split.images[0].turned
    assert evaluation.metrics["AP"] > 0.5
    with open_checkpoint(shared / "trained_d0_256") as source:
        assert failed(list(compare_stages(evaluation, source)[0])) == []
        as_stored = replace(evaluation.split, images=(evaluation.split.images[0]._replace(turned=False),))
        # Negative control: the picture as stored is another one.
        unturned = compare_stages(replace(evaluation, split=as_stored), source)[0]
    assert "metric" in failed(list(unturned))


@pytest.mark.parametrize(
    ("name", "value", "stage"),
    [("anchor_scale", 3.0, "boxes"), ("aspect_ratios", (1.0, 2.0, 0.4), "boxes"), ("mean_rgb", (0.0,) * 3, "pixels")],
)
def test_a_misread_setting_fails_in_its_stage(
    name: str, value: object, stage: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference reads `config.yaml` itself, so what the converter misreads is not on both sides."""
    pytest.importorskip("tensorflow")
    misread(monkeypatch, name, value)
    model = convert_trained(shared, tmp_path / "model.pth")
    evaluation = evaluate_coco(model, shared / "coco50", CocoSettings(limit=1, workers=0))
    assert evaluation is not None
    with open_checkpoint(shared / "trained_d0_256") as source:
        assert stage in failed(list(compare_stages(evaluation, source)[0]))


def test_a_checkpoint_of_another_image_size(
    shared: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorflow")
    evaluation = evaluate_coco(model, shared / "coco50", CocoSettings(limit=1, workers=0))
    assert evaluation is not None
    (tmp_path / "config.yaml").write_text("image_size: 512\n")
    monkeypatch.setattr("verify.subjects.references.find_config_file", lambda _: tmp_path / "config.yaml")
    with (
        open_checkpoint(shared / "trained_d0_256") as source,
        pytest.raises(ParityError, match="the model's image_size is 256 x 256, the checkpoint's 512 x 512"),
    ):
        compare_stages(evaluation, source)


def swapped_colours(images: Sequence[Any], *rest: Any) -> tuple[np.ndarray, np.ndarray]:
    return preprocess([image[:, :, ::-1] for image in images], *rest)


def failed(stages: list[StageResult]) -> list[str]:
    return [stage.stage for stage in stages if not stage.passed]


def test_an_error_that_is_not_a_number_is_the_worst() -> None:
    for errors in ([1e-6, float("nan"), 2e-6], [float("nan"), 1e-6, 2e-6]):
        worst = _worst("pixels", [10, 20, 30], errors)
        assert (worst.image_id, worst.passed) == (10 if errors[0] != errors[0] else 20, False)
    assert _worst("pixels", [10, 20, 30], [1e-6, 3e-6, 2e-6]).image_id == 20
