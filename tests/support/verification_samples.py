"""Made-up verifications for the tests of the reports: the layers of a real plan, errors drawn from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from converter.identify.families import DETECTOR
from converter.plan.expand import Layer
from effdet_torch.config import get_config
from verify.results import (
    AuditResult,
    Diagnosis,
    DType,
    LayerResult,
    Measures,
    Mode,
    TensorFinding,
    Verification,
)

TOLERANCES: dict[DType, float] = {"float32": 1e-4, "float64": 1e-11}
ROUNDING: dict[DType, float] = {"float32": 2e-7, "float64": 5e-16}
BROKEN = "fpn_cells/cell_1/fnode2/op_after_combine7/bn"
NASTY = "<script>alert(1)</script>|`a``b`*&\"'\x1b[31m\n\udc80"


class Place(NamedTuple):
    """A layer where it runs."""

    tf: str
    torch: str
    kind: str
    level: int | None
    shape: tuple[int, ...]


@cache
def passing(variant: str = "d0") -> Verification:
    """All layers of a variant in two modes and two dtypes, all within tolerance."""
    rng = np.random.default_rng(0)
    modes: tuple[Mode, ...] = ("cumulative", "isolated")
    return Verification(
        model=model(variant),
        reference={"name": "built-in TensorFlow reference (tf.nn)", "tensorflow": "2.21.0", "device": "CPU"},
        settings={"image_size": [512, 512], "input": "random", "seed": 0, "command": f"effdet-verify {variant}.pth"},
        versions={"python": "3.11.7", "numpy": "2.4.0", "torch": "2.15.0", "effdet-convert": "0.1.0"},
        layers=tuple(
            layer for mode in modes for dtype in TOLERANCES for layer in layer_results(variant, mode, dtype, rng)
        ),
        audit=AuditResult(712, (), {"model.index": "equal", "model.data-00000-of-00001": "equal"}),
        seconds=42.5,
    )


@cache
def failing() -> Verification:
    """One wrong running mean: its layer differs alone and from there on; an overflow near the end."""
    good = passing()
    broken_at = min(layer.order for layer in good.layers if layer.tf == BROKEN)
    key = "fpn.cell.1.fnode.2.after_combine.conv.bn.running_mean"
    diagnosis = Diagnosis(
        BROKEN,
        key,
        "bias not folded",
        "The running mean is the stored one; it must be less by the bias of the convolution in front of it.",
        3.1e-15,
    )
    return replace(
        good,
        layers=tuple(broken(layer, broken_at) for layer in good.layers),
        audit=AuditResult(712, (TensorFinding(key, "differs in 64 of 64 values"),), {"model.index": "not recorded"}),
        diagnoses=(diagnosis,),
    )


@cache
def nasty() -> Verification:
    """Names that no report may take literally; errors that are no numbers; nothing audited but findings."""
    good = passing()
    first, second, third = (
        replace(layer, tf=NASTY, torch=f"backbone.{NASTY}", kind=NASTY, measures=replace(layer.measures, **changes))
        for layer, changes in zip(
            good.layers,
            ({"max_over_rms": float("nan")}, {"max_over_rms": float("inf"), "found": -np.inf}, {}),
            strict=False,
        )
    )
    return replace(
        good,
        model={"path": f"/models/{NASTY}", NASTY: [{"name": NASTY}], "nan": float("nan"), "nested": {NASTY: NASTY}},
        layers=(first, second, third),
        audit=AuditResult(3, (TensorFinding(NASTY, NASTY),), {NASTY: "different"}),
        diagnoses=(Diagnosis(first.name, NASTY, NASTY, NASTY, float("inf")),),
    )


def unaudited() -> Verification:
    """Layers within tolerance, and no audit."""
    return replace(passing(), audit=None)


def empty() -> Verification:
    """Nothing was compared."""
    return replace(passing(), layers=(), audit=None)


def broken(layer: LayerResult, broken_at: int) -> LayerResult:
    """Return what a layer becomes when the one at `broken_at` is wrong."""
    alone = layer.order == broken_at
    after = layer.mode == "cumulative" and layer.order > broken_at and not layer.torch.startswith("backbone")
    if not alone and not after:
        return layer
    overflow = layer.tf == "box_net/box-predict" and layer.level == 7
    error = float("inf") if overflow else 0.37 * 0.99 ** (layer.order - broken_at)
    found = float("nan") if overflow else layer.measures.expected + error
    return replace(layer, measures=replace(layer.measures, max_abs=error, max_over_rms=error, found=found, cosine=0.93))


def model(variant: str) -> dict[str, Any]:
    """Return what a report says of the converted file."""
    metadata = {
        "variant": variant,
        "config": get_config(variant).to_dict(),
        "source": {
            "kind": "TensorBundle",
            "name": "efficientdet-d0",
            "files": [{"name": "model.index", "size_bytes": 65_803, "sha256": "0a" * 32}],
        },
        "view": {"name": "ema", "reason": "default: the checkpoint stores averages"},
        "redundant_bias": "folded",
    }
    return {"path": f"/models/{variant}.pth", "size_bytes": 15_980_000, "sha256": "5f" * 32, "metadata": metadata}


def layer_results(variant: str, mode: Mode, dtype: DType, rng: np.random.Generator) -> Iterator[LayerResult]:
    """Yield the layers of a run: errors grow along the network, or, isolated, do not."""
    for order, place in enumerate(places(variant)):
        growth = 1 + order / 10 if mode == "cumulative" else 1.0
        exact = mode == "isolated" and place.kind.startswith("fusion")
        error = 0.0 if exact else float(ROUNDING[dtype] * growth * rng.lognormal(0, 0.6))
        worst = tuple(int(rng.integers(size)) for size in place.shape)
        expected = float(rng.normal())
        measures = Measures(error * 0.8, error, error / 6, 1 - error**2, worst, expected, expected + error * 0.8)
        yield LayerResult(order, *place[:4], mode, dtype, place.shape, measures, TOLERANCES[dtype])


@cache
def places(variant: str) -> tuple[Place, ...]:
    """Return every layer where it runs: backbone, BiFPN, class head, box head; shared ones once per level."""
    config = get_config(variant)
    layers = sorted(DETECTOR.plan(config).layers, key=execution_order)
    return tuple(place for layer in layers for place in places_of(layer, list(config.levels)))


def execution_order(layer: Layer) -> tuple[int, str]:
    """Sort by part of the network; BiFPN nodes by cell and node, the rest stays as it is in the table."""
    parts = ("backbone", "fpn", "class_net", "box_net")
    name = "/".join(layer.tf.split("/")[:3]) if layer.tf.startswith("fpn_cells") else ""
    return parts.index(layer.torch.partition(".")[0]), name


def places_of(layer: Layer, levels: list[int]) -> Iterator[Place]:
    """Yield a layer's places; a batch norm is followed by its activation."""
    shared = layer.torch.startswith(("class_net.conv_rep", "class_net.predict", "box_net.conv_rep", "box_net.predict"))
    for level in levels if shared else [None]:
        size = 64 if level is None else 512 >> level
        yield Place(layer.tf, layer.torch, layer.kind, level, (1, size, size, 64))
    if layer.kind == "batch_norm":
        yield Place(f"{layer.tf}-act", layer.torch, "activation", None, (1, 64, 64, 64))
