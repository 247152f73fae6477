"""Checkpoints in memory: variables of any model, in as many copies as training leaves."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from converter.conversion import prepare
from converter.errors import MissingFileError
from converter.identify.families import DETECTOR, family_of
from converter.plan.copies import ViewName, select_view
from converter.plan.engine import convert, revert
from converter.plan.expand import Plan
from converter.source import SourceFacts, VariableInfo, VariableSource
from converter.writers.specs import TensorSpec
from converter.writers.tensorbundle import write_tensorbundle
from effdet_torch.config import EfficientDetConfig, get_config

Array = NDArray[Any]
EMA = "ExponentialMovingAverage"


class MemorySource(VariableSource):
    """Variables in a dict; without data nothing can be read, as from an .index file alone."""

    def __init__(
        self, arrays: Mapping[str, Any], path: str = "folder/model", *, data: bool = True, **facts: Any
    ) -> None:
        super().__init__(SourceFacts("memory", Path(path), Path(path).parent, **facts), shapes_of(arrays))
        self.arrays = dict(arrays)
        self.data, self.closed = data, False
        self.on_disk: tuple[Path, ...] = ()
        self.reads: list[str] = []

    def read(self, name: str) -> Array:
        array = self.arrays[name]
        self.reads.append(name)
        if not self.data:
            raise MissingFileError("the data file is not there")
        return array

    def files(self) -> tuple[Path, ...]:
        return self.on_disk

    def close(self) -> None:
        self.closed = True


def state_dict(source: VariableSource, view: ViewName | None = None) -> dict[str, Array]:
    """Convert everything, as the command does, and close the source."""
    with source:
        done = prepare(source, weights=view)
        return {name: np.array(array) for name, array in convert(done.source, done.plan, done.view)}


def assert_same(found: Mapping[str, Array], variables: Mapping[str, Array]) -> None:
    """Check that a state_dict is, bit for bit, what variables give."""
    wanted = state_dict(MemorySource(variables))
    assert found.keys() == wanted.keys()
    different = [name for name in wanted if found[name].tobytes() != wanted[name].tobytes()]
    assert not different, different


def converted(
    plan: Plan, arrays: Mapping[str, Any], view: ViewName | None = None, dtype: DTypeLike = np.float32
) -> dict[str, Array]:
    """Convert variables to a state_dict."""
    source = MemorySource(arrays)
    return dict(convert(source, plan, select_view(source, plan, view), dtype))


def reverted(state_dict: Mapping[str, Array], plan: Plan) -> dict[str, Array]:
    """Turn a state_dict back into variables."""
    nothing = np.zeros(0)
    pairs = [(entry, nothing if entry.target is None else state_dict[entry.target]) for entry in plan.entries]
    return {n: a for entry, tensor in pairs for n, a in zip(entry.sources, revert(entry, tensor), strict=True)}


def shapes_of(arrays: Mapping[str, Any]) -> dict[str, VariableInfo]:
    names = {"object": "string"}
    return {k: VariableInfo(names.get(str(a.dtype), str(a.dtype)), a.shape) for k, a in arrays.items()}


def architecture_of(variables: Mapping[str, Any]) -> Any:
    """What names and shapes show of a network of any family."""
    return family_of(MemorySource(variables))[1]


def small_config(**overrides: Any) -> EfficientDetConfig:
    """A small but whole EfficientDet: the smallest BiFPN and heads on the d0 backbone."""
    small = {"fpn_channels": 8, "fpn_cells": 1, "head_repeats": 1, "max_level": 5, "num_classes": 2}
    return get_config("d0", **(small | overrides))


def plan_of(config: EfficientDetConfig | str) -> Plan:
    return DETECTOR.plan(get_config(config) if isinstance(config, str) else config)


def placeholders(plan: Plan) -> dict[str, Array]:
    """Variables of the right shape that take no memory, for checks that read no values."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in plan.variables.items()}


def seeded(plan: Plan, seed: int = 0) -> dict[str, Array]:
    """Variables that are all different, each drawn from its own stream; variances are not negative."""
    drawn = {name: _draw(f"{seed}/{name}", shape) for name, shape in plan.variables.items()}
    return drawn | {name: np.abs(drawn[name]) for name in plan.variances}


def initial(plan: Plan) -> dict[str, Array]:
    """Variables as they are before training."""
    ones = ("gamma", "moving_variance")
    return {k: np.full(s, k.endswith(ones), np.float32) for k, s in plan.variables.items()}


def averages(variables: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{name}/{EMA}": array for name, array in variables.items()}


def training_checkpoint(plan: Plan) -> dict[str, Array]:
    """Everything that the official trainer stores: raw values, averages, momentum and the step, all different."""
    slots = {f"{name}/Momentum": array for name, array in seeded(plan, seed=2).items()}
    return {**seeded(plan), **averages(seeded(plan, seed=1)), **slots, "global_step": np.array(780, np.int64)}


def write_checkpoint(prefix: Path, arrays: Mapping[str, Array]) -> Path:
    """Write variables as a checkpoint on disk; return its prefix."""
    specs = {name: TensorSpec(array.dtype, array.shape) for name, array in arrays.items()}
    write_tensorbundle(prefix, specs, arrays.items())
    return prefix


def _draw(name: str, shape: tuple[int, ...]) -> Array:
    stream = np.random.default_rng(zlib.crc32(name.encode()))
    values: Array = stream.normal(0, 1, shape).astype(np.float32)
    return values
