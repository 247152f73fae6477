"""A third family: with a table and one entry, an invented network passes through the whole converter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.conversion import Preparation, convert_checkpoint, prepare
from converter.errors import AccountingError, MappingError, UnsupportedSourceError, ViewError
from converter.identify import families
from converter.inspection import inspect_source
from converter.plan.engine import convert
from converter.plan.family import Family, Request, Settings
from converter.plan.grammar import parse_table
from converter.source import VariableSource
from converter.writers.targets import TARGETS
from effdet_torch.errors import UsageError
from support.sources import MemorySource
from verify.layers.audit import audit_weights
from verify.subjects.weights import Weights

LEAVES = ("left", "right", "shift")
TABLE = b"""
version: 1
kinds:
  mixing:
    mix.weight: {from: [left, right], op: stack, shape: [width]}
    mix.offset: {from: shift, op: keep, shape: [width]}
groups:
- name: towers
  for_each: [floor]
  tf: "{shape}/tower/{floor}"
  torch: "floors.{floor}"
  rows:
  - [core, "", mixing, {width: width}]
views:
  raw: "{variable}"
  ema: "averaged/{variable}"
ignored:
- ["{variable}/Old", "what it was before"]
- [steps, "the step counter"]
- ["{shape}/garden/", "not a part of the tower"]
training_step: steps
recognition:
  shape:  {which: "{shape}/tower"}
  floors: {count: "square/tower/{n}", first: 0}
  width:  {size_of: square/tower/0/core/left, axis: 0}
"""


@dataclass(frozen=True)
class TowerConfig:
    name: str
    shape: str
    floors: int
    width: int
    redundant_bias: bool = False

    def keeping_biases(self) -> TowerConfig:
        return replace(self, redundant_bias=True)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Tower:
    shape: str
    floors: int
    width: int

    def describe(self) -> str:
        return f"a {self.shape} tower with {self.floors} floors"

    def variants(self, source: VariableSource | None = None) -> list[str]:
        return ["high-rise"] if self.floors > 1 else []


def settle(found: Tower, request: Request) -> Settings:
    return Settings(TowerConfig(request.variant or "high-rise", found.shape, found.floors, found.width))


TOWER = Family(
    name="tower",
    supported="round and square towers",
    load=lambda: parse_table(TABLE, "tower"),
    axes=lambda config: {"floor": [{"floor": floor} for floor in range(config.floors)]},
    constants=lambda config: {"shape": config.shape, "width": config.width},
    questions=("shape", "floors", "width"),
    choices={"shape": ("round", "square")},
    architecture=lambda answers: Tower(**answers),
    settle=settle,
)


@pytest.fixture(autouse=True)
def third(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FAMILIES", (*families.FAMILIES, TOWER))


def variables() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    names = [f"square/tower/{floor}/core/{leaf}" for floor in range(2) for leaf in LEAVES]
    raw = {name: rng.normal(size=4).astype(np.float32) for name in names}
    averages = {f"averaged/{name}": array + 1 for name, array in raw.items()}
    ignored = {f"{names[0]}/Old": np.zeros(1), "square/garden/tree": np.ones(2), "steps": np.array(7)}
    return {**raw, **averages, **ignored}


def prepared(*, changes: Mapping[str, Any] | None = None, without: str = "-", **options: Any) -> Preparation:
    arrays = {**variables(), **(changes or {})}
    return prepare(MemorySource({name: array for name, array in arrays.items() if without not in name}), **options)


def test_recognition_and_inspection() -> None:
    source = MemorySource(variables())
    assert families.family_of(source) == (TOWER, Tower("square", 2, 4))
    assert len(prepared().accounting.consumed) == 6
    facts = inspect_source(source)
    assert (facts["architecture"], facts["variants"]) == ("a square tower with 2 floors", ["high-rise"])
    assert (facts["step"], facts["problems"], facts["differing_variables"]) == (7, [], 6)
    assert facts["ignored"] == {"what it was before": 1, "not a part of the tower": 1, "the step counter": 1}


@pytest.mark.parametrize(("weights", "added"), [(None, 1), ("ema", 1), ("raw", 0)])
def test_conversion(tmp_path: Path, weights: Any, added: int) -> None:
    metadata = convert_checkpoint(prepared(weights=weights), tmp_path / "tower.pth")
    content = torch.load(tmp_path / "tower.pth", weights_only=True)
    arrays = variables()
    for floor in range(2):
        left, right, shift = (arrays[f"square/tower/{floor}/core/{leaf}"] + added for leaf in LEAVES)
        assert np.array_equal(content["state_dict"][f"floors.{floor}.mix.weight"], np.stack([left, right]))
        assert np.array_equal(content["state_dict"][f"floors.{floor}.mix.offset"], shift)
    assert content["metadata"] == metadata
    assert metadata["config"] == TowerConfig("high-rise", "square", floors=2, width=4).to_dict()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"without": "averaged/square/tower/1/core/shift"}, ViewError, "1 have none"),
        ({"without": "tower/1/core/shift", "weights": "raw"}, AccountingError, "missing: square/tower/1/core/shift"),
        ({"changes": {"square/cellar": np.zeros(1)}}, AccountingError, "unexpected: square/cellar"),
        ({"changes": {"averaged/square/tower/1/core/shift": np.zeros(5, np.float32)}}, AccountingError, "mismatched"),
        ({"without": "tower/0/core/left"}, UnsupportedSourceError, "expected the variable square/tower/0/core/left"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        prepared(**change)


def test_audit() -> None:
    preparation = prepared()
    state = dict(convert(preparation.source, preparation.plan, preparation.view))

    def findings() -> list[str]:
        return [finding.tensor for finding in audit_weights(Weights(state, preparation), {}).findings]

    assert findings() == []
    state["floors.1.mix.offset"] = state["floors.1.mix.offset"] + 1
    assert findings() == ["floors.1.mix.offset"]


def test_a_target_that_cannot_hold_the_family() -> None:
    with pytest.raises(UsageError, match="high-rise cannot be written as h5"):
        prepared().for_target(TARGETS["h5"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"questions": (*TOWER.questions, "height")}, "no rule answers 'height', which tower needs"),
        ({"choices": {}}, "tower has no choices for the placeholder 'shape'"),
    ],
)
def test_a_table_that_does_not_fit_its_family_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(MappingError, match=rf"mappings/tower.yaml: {words}"):
        replace(TOWER, **change).table  # noqa: B018
