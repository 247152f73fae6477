"""Exports of networks with a segmentation head: the same masks, or a refusal."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from effdet_torch import Predictor, export_model, save_model
from effdet_torch.engines.table import open_engine
from effdet_torch.errors import ConfigError, EffdetError
from effdet_torch.export.check import check_file
from effdet_torch.network.model import EfficientDet
from support.networks import alive
from support.sources import small_config
from verify.exported import verify_exported

BOTH = ("object_detection", "segmentation")
IMAGE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)


def sample(heads: tuple[str, ...]) -> EfficientDet:
    return alive(EfficientDet(small_config(heads=heads, image_size=(64, 96), num_classes=3)))


@pytest.mark.parametrize(
    ("heads", "name"),
    [
        (BOTH, "m.onnx"),
        pytest.param(("segmentation",), "m.onnx", marks=pytest.mark.slow),
        pytest.param(BOTH, "m.pt2", marks=pytest.mark.slow),
        pytest.param(BOTH, "m.torchscript", marks=pytest.mark.slow),
        pytest.param(("segmentation",), "m.pt2", marks=pytest.mark.slow),
        pytest.param(BOTH, "m.xml", marks=pytest.mark.slow),
        pytest.param(("segmentation",), "m.xml", marks=pytest.mark.slow),
    ],
)
def test_an_exported_file_gives_the_same_masks_and_detections(
    heads: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    model = sample(heads)
    done = export_model(model, tmp_path / name)
    assert done.checked is not None
    assert done.checked.error < 1e-4
    engine = open_engine(tmp_path / name)
    names = [f"{head}_{level}" for head in ("class", "box") for level in (3, 4, 5)] if len(heads) == 2 else []
    assert engine.interface.output_names(engine.config) == [*names, "segmentation"]
    (found,), (expected,) = (Predictor(each, score_threshold=0)(IMAGE) for each in (engine, model))
    assert found.mask is not None
    assert expected.mask is not None
    assert (found.mask == expected.mask).mean() > 0.999
    assert len(found) == len(expected)

    other = copy.deepcopy(model)  # negative control
    assert other.seg_head is not None
    assert other.seg_head.predict.bias is not None
    with torch.no_grad():
        other.seg_head.predict.bias[0] += 0.1
    with pytest.raises(EffdetError, match="segmentation"):
        check_file(engine, other)


def test_an_exported_head_is_compared_layer_by_layer(tmp_path: Path) -> None:
    model = sample(("segmentation",))
    save_model(model, tmp_path / "m.pth")
    export_model(model, tmp_path / "m.onnx")
    result = verify_exported(tmp_path / "m.onnx", tmp_path / "m.pth")
    assert result.passed
    assert result.detection is None
    inner = {layer.torch for layer in result.layers if layer.torch.startswith("seg_head")}
    assert inner == {"seg_head.bn_rep.0", "seg_head.bn_rep.1", "seg_head.predict"}
    assert [layer.torch for layer in result.outputs] == ["seg_head.predict"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nms": "soft"}, "no room for a mask; export the network alone, with --nms none"),
        ({"image_size": None}, "not every image size fits a segmentation head"),
        ({"image_size": (80, 96)}, "does not fit a segmentation head"),
    ],
)
def test_what_no_file_can_hold_is_refused(options: dict[str, object], words: str, tmp_path: Path) -> None:
    model = sample(BOTH)
    with pytest.raises(ConfigError, match=words):
        export_model(model, tmp_path / "m.onnx", **options)
    assert list(tmp_path.iterdir()) == []
