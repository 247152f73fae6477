"""Every validated cell of the table of formats: the file runs, and gives the model's outputs and detections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from effdet_torch.engines.document import profile_from
from effdet_torch.engines.file_engine import FileEngine
from effdet_torch.geometry.anchors import make_anchors_yxyx
from effdet_torch.network.model import EfficientDet
from effdet_torch.processing.postprocess import postprocess
from support.exports import LIMIT, export_sample, exported, noise, raw_outputs, worst_error

SUFFIXES = {
    "onnx": "onnx",
    "openvino": "xml",
    "torch": "pt2",
    "aoti": "pt2",
    "torchscript": "torchscript",
    "executorch": "pte",
    "litert": "tflite",
}
QUICK = (
    ("onnx", "network", "batch"),
    ("openvino", "network", "static"),
    ("litert", "network", "static"),
    ("litert", "detections", "static"),
)
SLOW = (
    ("torch", "network", "batch"),
    ("torchscript", "network", "static"),
    ("onnx", "network", "static"),
    ("onnx", "detections", "batch"),
    ("onnx", "detections", "static"),
    ("openvino", "network", "batch"),
    ("openvino", "detections", "batch"),
    ("openvino", "detections", "static"),
    ("torch", "network", "static"),
    ("torch", "detections", "static"),
    ("torch", "detections", "batch"),
    ("aoti", "network", "static"),
)
HEAVY = (("executorch", "network", "static"),)


@pytest.fixture(scope="module")
def model() -> EfficientDet:
    return export_sample()


def same_outputs(engine: FileEngine, model: EfficientDet, batch: int) -> bool:
    """Compare a batch with the model's outputs, or its detections with those of the model."""
    pixels = noise(batch)
    expected = raw_outputs(model, pixels)
    found = engine.run(pixels)
    if engine.interface.outputs == "network":
        return worst_error(found, expected) < LIMIT
    levels = [torch.from_numpy(array) for array in expected]
    profile, config, half = profile_from(engine.interface.profile), engine.config, len(levels) // 2
    anchors, scales = make_anchors_yxyx(config), torch.ones(batch)
    wanted = postprocess(levels[:half], levels[half:], anchors, scales, config.image_size, profile)
    boxes, scores, classes, count = (tensor.numpy() for tensor in wanted[:4])
    assert count.min() > 10  # detections to compare, of different scores
    assert scores.max() - scores[scores > 0].min() > 0.1
    # Order and classes depend on differences of scores, which are larger than the error, but for a few.
    return (
        bool(np.abs(found[1] - scores).max() < 1e-4)
        and bool((found[3] == count).all())
        and bool((found[2] == classes).mean() > 0.9)
        and bool((np.abs(found[0] - boxes).max(axis=2) < 0.05).mean() > 0.9)
    )


NMS: dict[tuple[str, str], dict[str, Any]] = {
    ("detections", "static"): {"nms": "hard", "profile": "official-eval"},
    ("detections", "batch"): {"nms": "soft", "profile": "serving"},
}
OWN_NMS: dict[str, dict[str, Any]] = {"litert": {"nms": "hard"}}  # of formats with one kind only
CASES = [
    *(pytest.param(*case, id="-".join(case)) for case in QUICK),
    *(pytest.param(*case, id="-".join(case), marks=pytest.mark.slow) for case in SLOW),
    *(pytest.param(*case, id="-".join(case), marks=pytest.mark.slow) for case in HEAVY),
]


@pytest.mark.parametrize(("name", "outputs", "shape"), CASES)
def test_cell(model: EfficientDet, name: str, outputs: str, shape: str, tmp_path: Path) -> None:
    if name == "executorch":
        pytest.importorskip("executorch", reason="executorch needs an environment of its own: make exports")
    nms = OWN_NMS.get(name, NMS[outputs, shape]) if outputs == "detections" else {"nms": "none"}
    batch = None if shape == "batch" else 1
    engine = exported(model, tmp_path / f"model.{SUFFIXES[name]}", name, **nms, batch=batch)
    assert (engine.interface.outputs, engine.interface.batch is None) == (outputs, shape == "batch")
    assert same_outputs(engine, model, batch=1)
    assert same_outputs(engine, model, batch=3)
    assert not same_outputs(engine, export_sample(seed=1), batch=1)  # negative control: another model
