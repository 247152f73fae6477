"""The tensors of a converted model beside those that the checkpoint gives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from converter.conversion import Preparation
from converter.plan.copies import View, stored_in
from converter.plan.engine import derive
from converter.plan.expand import Entry
from converter.plan.ops import Array

FLOAT32 = np.dtype(np.float32)


class Weights:
    """Found and expected tensors by PyTorch key; the expected ones are derived when asked for.

    Args:
        state_dict: tensors of the converted model; one that lacks a key or has another shape cannot be loaded.
        preparation: of the checkpoint that the model was made from.

    Attributes:
        wrong: keys whose tensors are not what the checkpoint gives, bit for bit.
    """

    def __init__(self, state_dict: Mapping[str, Array], preparation: Preparation) -> None:
        self._found, self._preparation = state_dict, preparation
        self._targets = preparation.plan.targets
        self.wrong = tuple(key for key in self._targets if not _equal(self.found(key), self.expected(key)))

    def entry(self, key: str) -> Entry:
        """Return how a tensor is made."""
        return self._targets[key]

    def found(self, key: str) -> Array:
        """Return the model's tensor."""
        return self._found[key]

    def expected(self, key: str, dtype: np.dtype[Any] = FLOAT32) -> Array:
        """Return what the checkpoint gives."""
        return derive(self._targets[key], self._preparation.source, self._preparation.view, dtype)

    def wrong_tensor(self, key: str) -> WrongTensor:
        """Return a tensor with all that it takes to explain it."""
        entry, view, source = self._targets[key], self._preparation.view, self._preparation.source
        variables = tuple(source.read(view.stored[name]).astype(FLOAT32, copy=False) for name in entry.inputs)
        return WrongTensor(key, entry, self.found(key), self.expected(key), variables, self)

    def stored(self, entry: Entry) -> str:
        """Return the names under which the checkpoint stores the variables of a tensor."""
        return ", ".join(self._preparation.view.stored[name] for name in entry.inputs)

    @property
    def view_name(self) -> str:
        """The copy that the model should hold: "ema" or "raw"."""
        return self._preparation.view.name

    @property
    def other_name(self) -> str:
        """The copy that it should not hold."""
        return "raw" if self.view_name == "ema" else "ema"

    def other_view(self, key: str) -> Array | None:
        """Return a tensor made from the checkpoint's other copy; None where it has none."""
        if self._other_view is None or not self._targets[key].sources:
            return None
        return derive(self._targets[key], self._preparation.source, self._other_view, FLOAT32)

    @cached_property
    def in_other_view(self) -> frozenset[str]:
        """Wrong tensors that hold the checkpoint's other copy."""
        others = ((key, self.other_view(key)) for key in self.wrong)
        return frozenset(key for key, other in others if other is not None and _equal(self.found(key), other))

    def holders_of(self, tensor: Array) -> list[str]:
        """Return the keys that should hold just these values."""
        keys = self._keys_by_digest.get(_digest(tensor), [])
        return [key for key in keys if _equal(self.expected(key), tensor)]

    def holds(self, key: str, tensor: Array) -> bool:
        """Return whether the model has just these values under a key."""
        return _equal(self.found(key), tensor)

    @cached_property
    def _keys_by_digest(self) -> Mapping[int, list[str]]:
        keys: defaultdict[int, list[str]] = defaultdict(list)
        for key in self._targets:
            keys[_digest(self.expected(key))].append(key)
        return keys

    @cached_property
    def _other_view(self) -> View | None:
        stored = stored_in(self._preparation.source, self._preparation.plan, self.other_name)
        if not all(name in self._preparation.source.variables for name in stored.values()):
            return None
        return View("raw" if self.other_name == "raw" else "ema", "for comparison", stored, {})


class Candidate(NamedTuple):
    """A tensor with a mistake in it.

    Attributes:
        mistake: short name.
        tensor: what the file would hold.
        found: half a sentence after "it": how the tensor differs, with the names of the TensorFlow variables.
        advice: what to do; "" for the usual.
    """

    mistake: str
    tensor: Array
    found: str
    advice: str = ""


@dataclass(frozen=True)
class WrongTensor:
    """A tensor of the converted file that is not what the checkpoint gives.

    Attributes:
        key: PyTorch key.
        entry: how it should have been made.
        found: what the file holds.
        expected: what it should hold.
        sources: the TensorFlow variables it is made from, a folded bias last.
        weights: everything else, for comparison.
    """

    key: str
    entry: Entry
    found: Array
    expected: Array
    sources: tuple[Array, ...]
    weights: Weights

    @property
    def suffix(self) -> str:
        """Last part of the key."""
        return self.key.rsplit(".", 1)[1]


def describe_difference(wrong: WrongTensor) -> str:
    """Return how many values of a tensor differ, and the largest difference."""
    different = wrong.found != wrong.expected
    distance = np.nan_to_num(np.abs(wrong.found.astype(np.float64) - wrong.expected), nan=np.inf)
    worst = np.unravel_index(int(distance.argmax()), distance.shape)
    position = tuple(map(int, worst))
    return (
        f"{int(different.sum())} of {different.size} values differ, most at {position}: expected "
        f"{wrong.expected[worst]:.7g}, found {wrong.found[worst]:.7g}"
    )


def _equal(one: Array, other: Array) -> bool:
    """Return whether two arrays have the same bits, so that NaN equals NaN and 0 is not -0."""
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()


def _digest(tensor: Array) -> int:
    return hash((tensor.shape, tensor.tobytes()))
