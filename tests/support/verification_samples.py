"""Made-up verifications for the tests of the reports: few layers, fixed values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from effdet_torch.data.rules import Note
from effdet_torch.metrics.coco import METRICS
from support.detail_samples import COMPARISON, DETAILS, NASTY, NASTY_COMPARISON, NASTY_DETAILS, NO_DETAILS
from verify.results.detections import DetectionParity, DetectionResult, PublishedAP, StageResult
from verify.results.verification import (
    AuditResult,
    Diagnosis,
    DType,
    GraphResult,
    LayerResult,
    Measures,
    Mode,
    TensorFinding,
    Verification,
)

MODES: tuple[Mode, ...] = ("isolated", "cumulative", "fused")
TOLERANCES: Mapping[DType, float] = {"float32": 1e-4, "float64": 1e-11}
BROKEN = "fpn_cells/cell_1/fnode2/op_after_combine7/bn"
BROKEN_KEY = "fpn.cell.1.fnode.2.after_combine.conv.bn.running_mean"

# TensorFlow scope, PyTorch module, kind, level, height and width, channels.
PLACES: tuple[tuple[str, str, str, int | None, int, int], ...] = (
    ("efficientnet-b0/stem/conv2d", "backbone.conv_stem", "conv", None, 256, 32),
    ("efficientnet-b0/stem/tpu_batch_normalization", "backbone.bn1", "batch_norm", None, 256, 32),
    ("fpn_cells/cell_0/fnode0/fuse", "fpn.cell.0.fnode.0.combine", "fusion", None, 8, 64),
    (BROKEN, "fpn.cell.1.fnode.2.after_combine.conv.bn", "batch_norm", None, 32, 64),
    ("class_net/class-predict", "class_net.predict", "separable_bias", 3, 64, 810),
    ("class_net/class-predict", "class_net.predict", "separable_bias", 7, 4, 810),
    ("box_net/box-predict", "box_net.predict", "separable_bias", 3, 64, 36),
    ("box_net/box-predict", "box_net.predict", "separable_bias", 7, 4, 36),
)


def layer(order: int, mode: Mode, dtype: DType) -> LayerResult:
    """Return a layer within its tolerance: errors grow along the network; a fusion alone is exact."""
    tf, torch, kind, level, side, channels = PLACES[order]
    growth = 1.0 + order if mode == "cumulative" else 0.0 if kind.startswith("fusion") else 1.5
    error = growth * TOLERANCES[dtype] / 1000
    expected = 0.25 * (order + 1)
    worst = (0, side // 2, side // 4, channels - 1)
    measures = Measures(error * 0.5, error, error / 8, 1 - error / 4, worst, expected, expected + error * 0.5)
    return LayerResult(
        order, tf, torch, kind, level, mode, dtype, (1, side, side, channels), measures, TOLERANCES[dtype]
    )


def runs(order: int, mode: Mode, dtype: DType) -> bool:
    """Return whether a layer is compared in a run: the fused network has some of them only."""
    return mode != "fused" or PLACES[order][1].startswith(("backbone.bn1", "class_net", "box_net"))


def broken(good: LayerResult) -> LayerResult:
    """Return what a layer becomes when `BROKEN` is wrong: it differs alone, and all after it; the last overflows."""
    order = [tf for tf, *_ in PLACES].index(BROKEN)
    if good.order < order or good.mode == "fused" or (good.mode == "isolated" and good.order > order):
        return good
    overflow = good.order == len(PLACES) - 1
    error = float("inf") if overflow else 0.5 - good.order / 16
    found = float("nan") if overflow else good.measures.expected + error
    return replace(good, measures=replace(good.measures, max_abs=error, max_over_rms=error, found=found, cosine=0.75))


def hostile(good: LayerResult, **measures: float) -> LayerResult:
    """Return a layer whose names no report may take literally."""
    changed = replace(good.measures, **measures)
    return replace(good, tf=NASTY, torch=f"backbone.{NASTY}", kind=NASTY, measures=changed)


def part_of(
    whole: Verification, modes: Sequence[Mode] = MODES, dtypes: Sequence[DType] = tuple(TOLERANCES)
) -> Verification:
    """Return a verification that ran in some modes and dtypes only."""
    return replace(whole, layers=tuple(x for x in whole.layers if x.mode in modes and x.dtype in dtypes))


MODEL: Mapping[str, Any] = {
    "path": "/models/d0.pth",
    "size_bytes": 15_980_000,
    "sha256": "5f" * 32,
    "metadata": {
        "variant": "d0",
        "config": {f"setting_{n}": n for n in range(13)},
        "config_origins": {"backbone": "names and shapes", "fusion": "config.yaml"},
        "assumed": {},
        "source": {"name": "efficientdet-d0", "files": [{"name": "model.index", "sha256": "0a" * 32}]},
        "view": {"name": "ema", "reason": "default: the checkpoint stores averages"},
        "redundant_bias": "folded",
    },
}
PASSING = Verification(
    model=MODEL,
    reference={"name": "built-in TensorFlow reference (tf.nn)", "tensorflow": "2.21.0", "device": "CPU"},
    settings={"image_size": [512, 512], "input": "random", "seed": 0, "command": "effdet-verify d0.pth"},
    versions={"python": "3.11.7", "numpy": "2.4.0", "torch": "2.15.0", "effdet-convert": "0.1.0"},
    layers=tuple(
        layer(order, *run) for run in product(MODES, TOLERANCES) for order in range(len(PLACES)) if runs(order, *run)
    ),
    audit=AuditResult(712, (), {"model.index": "equal", "model.data-00000-of-00001": "equal"}),
    seconds=42.5,
)
FAILING = replace(
    PASSING,
    layers=tuple(map(broken, PASSING.layers)),
    audit=AuditResult(
        712,
        (TensorFinding(BROKEN_KEY, "differs in 64 of 64 values"), *(TensorFinding(f"x.{n}", "?") for n in range(16))),
        {"model.index": "not recorded", "model.data-00000-of-00001": "equal"},
    ),
    diagnoses=(
        Diagnosis(BROKEN, BROKEN_KEY, "bias not folded", "It lacks the bias of the convolution before it.", 3.1e-15),
        Diagnosis(BROKEN, None, "wrong epsilon", "It computes with 1e-5; set 1e-3.", 0.0),
    ),
)
OUTPUTS = tuple(x for x in PASSING.outputs if x.dtype == "float32")
GRAPH = GraphResult("saved_model.pb", "", OUTPUTS, (640, 512), ("The graph was built for another size.",))
OTHER_GRAPH = replace(GRAPH, outputs=(OUTPUTS[0], *map(broken, OUTPUTS[1:])))
WRONGLY_FUSED = replace(
    PASSING,
    layers=tuple(
        replace(x, measures=replace(x.measures, max_over_rms=0.125)) if x.mode == "fused" and x.level == 3 else x
        for x in PASSING.layers
    ),
    diagnoses=(Diagnosis("class_net/class-predict (P3)", None, "fused network", "The file is not the cause.", 0.125),),
)
FEW = DetectionParity("d0.pth in PyTorch", 9, 0, 9, 0.001, 1e-6)
EXPORTED = replace(
    PASSING,
    model={**MODEL, "path": "d0.onnx"},
    reference={"name": "d0.pth in PyTorch", "source": "d0.pth"},
    settings={"image_size": [512, 512], "input": "noise", "seed": 0, "runtime": "ONNX Runtime 1.32.0"},
    layers=tuple(replace(x, mode="exported") for x in PASSING.layers if (x.mode, x.dtype) == ("fused", "float32")),
    audit=None,
    detection=DetectionResult("the network input (noise, seed 0)", "serving", 1, 100, {}, True, parity=FEW),
)
WRONGLY_EXPORTED = replace(
    EXPORTED,
    layers=tuple(replace(x, tolerance=1e-9) if x.level == 3 else x for x in EXPORTED.layers),
    diagnoses=(Diagnosis("class_net/class-predict (P3)", None, "exported file", "It differs first.", 5e-7),),
)
ASSUMED: Mapping[str, Any] = {
    **MODEL,
    "metadata": {
        **MODEL["metadata"],
        "assumed": {"act_type": "swish", "survival_prob": None, "aspect_ratios": [1.0, 2.0, 0.5]},
    },
}
HOSTILE = replace(
    PASSING,
    model={
        "path": f"/models/{NASTY}",
        "metadata": {"assumed": {NASTY: NASTY}},
        NASTY: [{"name": NASTY}],
        "nan": float("nan"),
        "nested": {NASTY: NASTY},
    },
    layers=(
        hostile(PASSING.layers[0], max_over_rms=float("nan")),
        hostile(PASSING.layers[1], max_over_rms=float("inf"), found=-float("inf")),
        hostile(PASSING.layers[2]),
    ),
    audit=AuditResult(3, (TensorFinding(NASTY, NASTY),), {NASTY: "different"}),
    diagnoses=(Diagnosis(NASTY, NASTY, NASTY, NASTY, float("inf")),),
    graph=GraphResult(NASTY, NASTY),
)
DETECTION = DetectionResult(
    split="val2017",
    profile="official-eval",
    images=5000,
    detections=123456,
    metrics=dict(
        zip(METRICS, (0.343, 0.52, 0.365, 0.125, 0.385, 0.52, 0.29, 0.445, 0.47, 0.2, 0.55, -1.0), strict=True)
    ),
    complete=True,
    evaluator="pycocotools 2.0.11",
    published=PublishedAP("efficientdet-d0", 34.3, 34.35),
    parity=DetectionParity("official.json", 1000, 1, 999, 0.75, 0.002, 1e-5, 37777),
    stages=(
        StageResult("pixels", "largest difference", 1e-6, 1e-4, 37777),
        StageResult("metric", "AP", 0.0, 5e-4, None),
    ),
    notes=(
        Note("area missing", "repaired", 12, "annotations without a usable area: width x height of the box", ("7",)),
    ),
)
WRONG_DETECTION = replace(
    DETECTION,
    complete=False,
    published=PublishedAP("efficientdet-d0", 34.3, 34.41),
    parity=DetectionParity(NASTY, 1000, 0, 900, float("inf"), 0.002, None, 37777),
    stages=(StageResult("pixels", "largest difference", float("nan"), 1e-4, 37777),),
    notes=(Note("box empty", "dropped", 1, "boxes of zero or negative size", (NASTY,)),),
)
EVALUATED = replace(PASSING, layers=(), audit=None, reference={}, detection=DETECTION)

ALONE = replace(DETECTION, published=None, parity=None, stages=())


def evaluated(**values: Any) -> Verification:
    """Return an evaluation without comparisons, with these values."""
    profile = {"name": "official-eval", "iou_threshold": 0.5}
    settings = {**EVALUATED.settings, "profile": profile}
    return replace(EVALUATED, settings=settings, detection=replace(ALONE, **values))


SAMPLES: Mapping[str, Verification] = {
    "passing": PASSING,
    "failing": FAILING,
    "wrongly_fused": WRONGLY_FUSED,
    "exported": EXPORTED,
    "wrongly_exported": WRONGLY_EXPORTED,
    "hostile": HOSTILE,
    "empty": replace(PASSING, layers=(), audit=None),
    "one_run": part_of(PASSING, modes=("cumulative",), dtypes=("float32",)),
    "evaluated": EVALUATED,
    "evaluated_only": evaluated(),
    "details": evaluated(details=DETAILS),
    "no_objects": evaluated(details=NO_DETAILS),
    "two_models": evaluated(details=DETAILS, comparison=COMPARISON),
    "hostile_details": evaluated(details=NASTY_DETAILS, comparison=NASTY_COMPARISON),
    "evaluated_wrong": replace(EVALUATED, detection=WRONG_DETECTION),
    "layers_and_detections": replace(PASSING, audit=None, detection=DETECTION),
    "graph_agrees": replace(PASSING, graph=GRAPH, required="graph"),
    "graph_differs": replace(PASSING, graph=OTHER_GRAPH),
    "graph_left_out": replace(PASSING, graph=GraphResult("", "no inference graph belongs to d0")),
    "assumed": replace(PASSING, model=ASSUMED, required="config"),
}
