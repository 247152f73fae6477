"""Corrupt every tensor of a model in turn, and see whether the comparison notices it, at the right layer only.

TensorFlow runs once in each dtype; every layer's input and output are kept, and a mutation runs only the PyTorch layers
that hold the tensor.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from converter.conversion import Preparation
from converter.plan.expand import Entry, Plan
from effdet_torch.network.model import EfficientDet
from verify.diagnosis.cases import Case, collect_cases
from verify.layers.audit import audit_tensor
from verify.layers.pairs import COMPOSITES, layer_pairs
from verify.layers.tolerances import tolerance
from verify.results import DType
from verify.verification import build_reference, in_dtype

FACTOR = 1.01
SCALED, EXCHANGED = f"largest value x {FACTOR}", "exchanged with its neighbour"


@dataclass(frozen=True)
class Mutation:
    """One corruption: of one tensor's largest value, or of two whole tensors of one kind and shape."""

    how: str
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What the isolated comparison and the audit say to a mutation.

    Attributes:
        mutation: what was done.
        kind: of the tensor's layer, and the tensor in it.
        dtype: of the comparison.
        excess: error over tolerance of the layer it belongs to; of two layers the smaller.
        elsewhere: layers that are reported, and neither hold the tensor nor contain the layer that does.
        audited: whether the audit reports every corrupted tensor.
    """

    mutation: Mutation
    kind: str
    dtype: DType
    excess: float
    elsewhere: tuple[str, ...]
    audited: bool

    @property
    def caught(self) -> bool:
        """Whether the layer that the tensor belongs to is beyond its tolerance."""
        return self.excess > 1


@dataclass(frozen=True)
class Control:
    """The uncorrupted model: how many layers were compared, how many are reported, the largest error over tolerance."""

    dtype: DType
    layers: int
    reported: int
    excess: float


@dataclass(frozen=True)
class Score:
    """All outcomes; `excluded`: {why: how many mutations would say nothing}."""

    outcomes: tuple[Outcome, ...]
    controls: tuple[Control, ...]
    excluded: Mapping[str, int]

    @property
    def survivors(self) -> tuple[Outcome, ...]:
        """Mutations that their layer does not show."""
        return tuple(outcome for outcome in self.outcomes if not outcome.caught)


class Bench:
    """A converted model, and the layers of the TensorFlow model, in one dtype.

    Args:
        preparation: of the checkpoint.
        model: converted from it.
        images: (1, H, W, 3), normalised.
        dtype: to compare in.
        everywhere: run all layers at every mutation, and not only those that hold the tensor.
    """

    def __init__(
        self,
        preparation: Preparation,
        model: EfficientDet,
        images: NDArray[Any],
        dtype: DType,
        everywhere: bool,
    ) -> None:
        self.dtype: DType = dtype
        self._everywhere = everywhere
        self._model, self._targets = in_dtype(model, preparation, dtype), preparation.plan.targets
        reference = build_reference(preparation, "built-in", dtype)
        self._cases = list(collect_cases(reference, layer_pairs(preparation.plan), images, dtype))

    def control(self) -> Control:
        """Compare the uncorrupted model."""
        excesses = [self._excess(case) for case in self._cases]
        return Control(self.dtype, len(excesses), sum(excess > 1 for excess in excesses), max(excesses))

    def outcome(self, mutation: Mutation, audited: bool) -> Outcome:
        """Corrupt the model, compare its layers, and put it right again."""
        entries = [self._targets[key] for key in mutation.tensors]
        with mutated(self._model.state_dict(), mutation):
            cases = [case for case in self._cases if self._everywhere or _holds(case, mutation)]
            found = [(case, self._excess(case)) for case in cases]
        owners = [
            max(excess for case, excess in found if case.pair.layer.torch == entry.layer.torch) for entry in entries
        ]
        elsewhere = tuple(
            case.name for case, excess in found if excess > 1 and not any(_may_report(case, entry) for entry in entries)
        )
        return Outcome(mutation, _kind(entries[0]), self.dtype, min(owners), elsewhere, audited)

    def _excess(self, case: Case) -> float:
        return case.error(self._model) / tolerance("isolated", self.dtype, case.pair.layer.kind)


def mutation_score(
    preparation: Preparation,
    model: EfficientDet,
    images: NDArray[Any],
    dtypes: Sequence[DType] = ("float64", "float32"),
    sample: int | None = None,
    everywhere: bool = False,
) -> Score:
    """Corrupt every tensor of a converted model in turn.

    Args:
        preparation: of the checkpoint.
        model: converted from it, in float32; it stays as it is.
        images: (1, H, W, 3), normalised; large enough that every value of a kernel meets a pixel: P7 at least 2x2.
        dtypes: to compare in.
        sample: how many mutations, drawn with seed 0; None takes all.
        everywhere: see `Bench`.
    """
    mutations, excluded = plan_mutations(preparation.plan, model.state_dict())
    if sample is not None and sample < len(mutations):
        mutations = random.Random(0).sample(mutations, sample)
    with torch.inference_mode():
        copy = in_dtype(model, preparation, "float32")
        audited = {mutation: _audited(mutation, copy, preparation) for mutation in mutations}
        outcomes, controls = list[Outcome](), list[Control]()
        for dtype in dtypes:
            bench = Bench(preparation, model, images, dtype, everywhere)
            controls.append(bench.control())
            outcomes += [bench.outcome(mutation, audited[mutation]) for mutation in mutations]
    return Score(tuple(outcomes), tuple(controls), excluded)


def plan_mutations(plan: Plan, state_dict: Mapping[str, Tensor]) -> tuple[list[Mutation], dict[str, int]]:
    """Return all mutations, and {why some are left out: how many}."""
    excluded: Counter[str] = Counter()
    mutations: list[Mutation] = []
    alike: defaultdict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for key, entry in plan.targets.items():
        if not entry.sources:
            excluded["batch counter: no layer computes with it"] += 2
        elif not state_dict[key].any():
            excluded["all values are zero: there is nothing to scale"] += 1
        else:
            mutations.append(Mutation(SCALED, (key,)))
        if entry.sources:
            alike[_kind(entry), entry.target_shape].append(key)
    for keys in alike.values():
        pairs = dict.fromkeys(frozenset(pair) for pair in zip(keys, [*keys[1:], keys[0]], strict=True))
        for pair in map(sorted, pairs):
            if len(pair) == 1:
                excluded["no other tensor of its kind and shape to be exchanged with"] += 1
            elif torch.equal(*(state_dict[key] for key in pair)):
                excluded["equal to its neighbour"] += 1
            else:
                mutations.append(Mutation(EXCHANGED, tuple(pair)))
    return mutations, dict(excluded)


@contextmanager
def mutated(state_dict: Mapping[str, Tensor], mutation: Mutation) -> Iterator[None]:
    """Corrupt tensors in place, and put them right again."""
    saved = [state_dict[key].clone() for key in mutation.tensors]
    for key, other in zip(mutation.tensors, reversed(saved), strict=True):
        tensor = state_dict[key]
        if mutation.how == EXCHANGED:
            tensor.copy_(other)
        else:
            tensor[torch.unravel_index(tensor.abs().argmax(), tensor.shape)] *= FACTOR
    yield
    for key, values in zip(mutation.tensors, saved, strict=True):
        state_dict[key].copy_(values)


def _audited(mutation: Mutation, model: EfficientDet, preparation: Preparation) -> bool:
    state_dict, targets = model.state_dict(), preparation.plan.targets
    with mutated(state_dict, mutation):
        found = [
            next(audit_tensor(targets[key], state_dict[key].numpy(), preparation.source, preparation.view), None)
            for key in mutation.tensors
        ]
    return None not in found


def _holds(case: Case, mutation: Mutation) -> bool:
    return any(key.startswith(f"{case.pair.layer.torch}.") for key in mutation.tensors)


def _may_report(case: Case, entry: Entry) -> bool:
    """Whether a layer holds a tensor, or is made of layers of which one does."""
    layer, module = case.pair.layer, entry.layer.torch
    return layer.torch == module or (layer.kind in COMPOSITES and module.startswith(f"{layer.torch}."))


def _kind(entry: Entry) -> str:
    target = entry.target or ""
    return f"{entry.layer.kind}: {target.removeprefix(f'{entry.layer.torch}.')}"
