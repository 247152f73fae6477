"""Checkpoints in the official layout with reproducible values: for demonstrations, benchmarks and tests.

Every variable is drawn from a stream of its own, seeded by its name: its values depend on nothing else. The scales
keep activations near 1 through the whole network: a mistake anywhere then shows in the outputs.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converter.identify.families import DETECTOR
from converter.plan.copies import stored_names
from converter.plan.expand import Entry, Plan
from converter.plan.ops import Array
from converter.plan.table import VIEWS
from converter.writers.specs import TensorSpec
from converter.writers.tensorbundle import write_tensorbundle
from effdet_torch.config import EfficientDetConfig, get_config

PRIOR = -math.log((1 - 0.01) / 0.01)  # class bias of a focal-loss model: few detections, as in a trained one


def write_seeded_checkpoint(config: EfficientDetConfig | str, folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint with raw and EMA copies of every variable and a step counter.

    Args:
        config: a model config, or the name of a variant.
        folder: created if need be.
        seed: another seed, other values.

    Returns:
        The checkpoint's prefix: folder/model.
    """
    plan = DETECTOR.plan(get_config(config) if isinstance(config, str) else config)
    folder.mkdir(parents=True, exist_ok=True)
    step = plan.table.training_step
    specs = {step: TensorSpec(np.dtype(np.int64), ())}
    for view in VIEWS:
        names = stored_names(plan, view)
        specs |= {names[name]: TensorSpec(np.dtype(np.float32), shape) for name, shape in plan.variables.items()}
    write_tensorbundle(folder / "model", specs, _tensors(plan, seed))
    return folder / "model"


def _tensors(plan: Plan, seed: int) -> Iterator[tuple[str, Array]]:
    yield plan.table.training_step, np.zeros((), np.int64)
    for view in VIEWS:
        names = stored_names(plan, view)
        for name, values in seeded_variables(plan, f"{view}/{seed}"):
            yield names[name], values


def seeded_variables(plan: Plan, seed: str) -> Iterator[tuple[str, Array]]:
    """Yield (TensorFlow name, float32 array) for every variable of a plan."""
    weighted = any(name.endswith("/WSM") for name in plan.variables)
    for entry in plan.entries:
        for name in entry.sources:
            generator = np.random.default_rng(zlib.crc32(f"{seed}/{name}".encode()))
            yield name, _draw(generator, entry, name, weighted).astype(np.float32)


def _draw(generator: np.random.Generator, entry: Entry, name: str, weighted: bool) -> Any:
    leaf, shape = name.rsplit("/", 1)[1], entry.shape
    if leaf in UNIFORM:
        return generator.uniform(*UNIFORM[leaf], shape)
    if leaf.endswith("kernel"):
        fan_in = math.prod(shape[:2]) if entry.op_name == "depthwise" else math.prod(shape[:3])
        return generator.normal(0, _gain(entry, weighted) / math.sqrt(fan_in), shape)
    centre = PRIOR if name == "class_net/class-predict/bias" else 0.0
    return generator.normal(centre, 0.1, shape)


def _gain(entry: Entry, weighted: bool) -> float:
    """Return how much a convolution amplifies: enough to make up for the activation in front of it."""
    if entry.layer.torch.endswith("conv_pwl"):
        return 0.3  # most are added to their block's input, which must not grow over 50 blocks
    if entry.op_name == "depthwise" and entry.layer.torch.endswith("after_combine.conv") and not weighted:
        return GAIN / 2.3  # a plain sum of two or three related inputs grows
    return GAIN


GAIN = 1.4
UNIFORM: Mapping[str, tuple[float, float]] = {
    "gamma": (0.5, 1.5),
    "moving_variance": (0.5, 1.5),
    "WSM": (0.2, 1.5),
    "WSM_1": (0.2, 1.5),
    "WSM_2": (0.2, 1.5),
}
