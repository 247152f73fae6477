"""The tensors of a converted model beside those that the checkpoint gives."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from converter.conversion import Preparation
from converter.identify.families import BACKBONE
from converter.plan.copies import View, stored_in
from converter.plan.engine import derive, revert
from converter.plan.expand import Entry
from converter.plan.ops import Array
from effdet_torch.network.model import EfficientDet
from verify.results.verification import DType

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


class Weights:
    """Found and expected tensors by PyTorch key; an expected one is derived when it is asked for.

    Args:
        found: tensors of the converted model.
        preparation: of the checkpoint that the model was made from.
        was_saved: the model was saved, not converted: its batch norms may have counted the updates of a training.

    Attributes:
        counters: keys of such counts, for which TensorFlow has no variable: they are not compared.
    """

    def __init__(self, found: Mapping[str, Array], preparation: Preparation, was_saved: bool = False) -> None:
        self.found, self.preparation = found, preparation
        self.targets = preparation.plan.targets
        self.counters = {key for key, entry in self.targets.items() if was_saved and not entry.sources}

    @classmethod
    def of_model(cls, model: EfficientDet, preparation: Preparation) -> Weights:
        """Take all tensors of a detector, or only the backbone's of the detector that carries a converted backbone."""
        found = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
        if preparation.family is BACKBONE:
            found = {key: tensor for key, tensor in found.items() if key in preparation.plan.targets}
        return cls(found, preparation, was_saved="source" not in model.metadata)

    def count_different(self, key: str) -> int:
        """Return how many values of a tensor are not, bit for bit, what the checkpoint gives.

        Where the table's operation has an exact inverse, the tensor is turned back and compared with the stored
        variables; others, a folded mean, whose inverse is not unique, and a constant are derived.
        """
        entry, found = self.targets[key], self.found[key]
        if found.shape != entry.target_shape:
            return max(found.size, 1)
        if entry.folds is not None or not entry.sources or not entry.op.is_exact:
            return _count_different(found, self.expected(key))
        stored = (self._read(name) for name in entry.sources)
        return sum(_count_different(one, other) for one, other in zip(revert(entry, found), stored, strict=True))

    @cached_property
    def wrong(self) -> Mapping[str, int]:
        """{key of a tensor that is not what the checkpoint gives, bit for bit: how many of its values differ}."""
        compared = (key for key in self.targets if key in self.found and key not in self.counters)
        counts = ((key, self.count_different(key)) for key in compared)
        return {key: count for key, count in counts if count}

    def expected(self, key: str, dtype: np.dtype[Any] = FLOAT32) -> Array:
        """Return what the checkpoint gives."""
        return derive(self.targets[key], self.preparation.source, self.preparation.view, dtype)

    def wrong_tensor(self, key: str) -> WrongTensor:
        """Return a tensor with everything that it takes to explain it."""
        entry = self.targets[key]
        variables = tuple(self._read(name) for name in entry.inputs)
        return WrongTensor(key, entry, self.found[key], self.expected(key), variables, self)

    def stored(self, entry: Entry) -> str:
        """Return the names under which the checkpoint stores the variables of a tensor."""
        return ", ".join(self.preparation.view.stored[name] for name in entry.inputs)

    def _read(self, name: str) -> Array:
        return self.preparation.source.read(self.preparation.view.stored[name]).astype(FLOAT32, copy=False)

    @property
    def other_name(self) -> str:
        """The copy that the model should not hold: "ema" or "raw"."""
        return "raw" if self.preparation.view.name == "ema" else "ema"

    def from_other_view(self, key: str) -> Array | None:
        """Return a tensor made from the checkpoint's other copy; None where it has none."""
        if self._other_view is None or not self.targets[key].sources:
            return None
        return derive(self.targets[key], self.preparation.source, self._other_view, FLOAT32)

    @cached_property
    def in_other_view(self) -> frozenset[str]:
        """Wrong tensors that hold the checkpoint's other copy."""
        others = ((key, self.from_other_view(key)) for key in self.wrong)
        return frozenset(key for key, other in others if other is not None and same_bits(self.found[key], other))

    def holders_of(self, tensor: Array) -> list[str]:
        """Return the keys that should hold just these values."""
        keys = [key for key, entry in self.targets.items() if entry.target_shape == tensor.shape]
        return [key for key in keys if same_bits(self.expected(key), tensor)]

    @cached_property
    def _other_view(self) -> View | None:
        source, name = self.preparation.source, self.other_name
        stored = stored_in(source, self.preparation.plan, name)
        if not all(variable in source.variables for variable in stored.values()):
            return None
        return View("raw" if name == "raw" else "ema", "for comparison", stored, {})


@dataclass(frozen=True)
class WrongTensor:
    """A tensor of the converted file that is not what the checkpoint gives.

    Attributes:
        key: PyTorch key.
        entry: how it should have been made.
        found: what the file holds.
        expected: what it should hold.
        sources: the TensorFlow variables it is made from, a folded bias last.
        weights: all tensors, for comparison.
    """

    key: str
    entry: Entry
    found: Array
    expected: Array
    sources: tuple[Array, ...]
    weights: Weights


def in_dtype(model: EfficientDet, weights: Weights, dtype: DType) -> EfficientDet:
    """Return a model in a dtype, in eval mode, for comparison: itself in float32, a copy in float64.

    In float64, a tensor that is computed (a folded mean, a divided prediction) and is the exact float32 rounding of its
    derivation is replaced by that derivation in float64: the one rounding would otherwise hide what float64 can show.
    Other tensors keep their values.
    """
    if dtype == "float32":
        return model.float().eval()
    copy = deepcopy(model).double()  # not a new model: what its layers compute must be compared, too
    tensors = copy.state_dict()
    for key, entry in weights.targets.items():
        if (entry.folds is not None or not entry.op.is_exact) and key not in weights.wrong:
            tensors[key].copy_(torch.from_numpy(weights.expected(key, FLOAT64)))
    return copy.eval()


def same_bits(one: Array, other: Array) -> bool:
    """Return whether two arrays have the same bits, so that NaN equals NaN and 0.0 is not -0.0."""
    return one.shape == other.shape and not _count_different(one, other)


def _count_different(found: Array, expected: Array) -> int:
    if found.dtype != expected.dtype:
        return max(expected.size, 1)
    bits = f"u{expected.dtype.itemsize}"
    one, other = (np.ascontiguousarray(array).reshape(-1).view(bits) for array in (found, expected))
    return int(np.count_nonzero(one != other))
