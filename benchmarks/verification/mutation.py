"""The mutation score: corrupt every tensor of a model in turn, and see whether the verification notices it, and where.

    python -m benchmarks.verification.mutation > docs/mutation_score.md

TensorFlow runs once in each dtype on a seeded checkpoint; every layer's input and output are kept, and a mutation runs
only the PyTorch layers that hold the tensor.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.verification.other_networks import OtherNetwork, other_networks
from converter.conversion import Preparation, prepare
from converter.locate import open_checkpoint
from converter.plan.expand import Entry, Plan
from effdet_torch.network.checkpoint import load_model
from effdet_torch.network.model import EfficientDet
from verify.demo import write_demo
from verify.layers.pairs import layer_pairs
from verify.layers.parity import Match, match_layers, one_thread
from verify.layers.tolerances import tolerance
from verify.results.verification import DType
from verify.subjects.references import build_reference
from verify.subjects.weights import Weights, in_dtype
from verify.verification import versions

COMMAND = "python -m benchmarks.verification.mutation"
SIZE = 160  # the smallest multiple of 32 whose P7 is 2x2: on 1x1, a kernel shows its centre only
FACTOR = 1.01
SCALED, EXCHANGED = f"largest value x {FACTOR}", "exchanged with its neighbour"
MEANINGS = {
    "caught": "the layer that the tensor belongs to, run alone on TensorFlow's input, is beyond its tolerance; after "
    "an exchange both layers are",
    "audit": "mutations that the bitwise comparison of the file with the checkpoint reports",
    "margin": "error over tolerance; above 1 is caught",
}


class Mutation(NamedTuple):
    """One corruption: of one tensor's largest value, or of two whole tensors of one kind and shape."""

    how: str
    tensors: tuple[str, ...]


class Outcome(NamedTuple):
    """What the isolated comparison and the audit make of a mutation.

    Attributes:
        mutation: what was done.
        kind: of the tensor's layer, and the tensor in it.
        dtype: of the comparison.
        excess: error over tolerance of the layer it belongs to; of two layers the smaller.
        audited: whether the audit reports every corrupted tensor.
    """

    mutation: Mutation
    kind: str
    dtype: DType
    excess: float
    audited: bool


class Control(NamedTuple):
    """The uncorrupted model: how many layers were compared, how many are reported, the largest error over tolerance."""

    dtype: DType
    layers: int
    reported: int
    excess: float


class Score(NamedTuple):
    """All outcomes; `excluded`: {why: how many mutations would say nothing}."""

    outcomes: list[Outcome]
    controls: list[Control]
    excluded: Mapping[str, int]
    networks: list[OtherNetwork]

    @property
    def survivors(self) -> list[Outcome]:
        """Mutations that their layer does not show."""
        return [outcome for outcome in self.outcomes if outcome.excess <= 1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert a seeded checkpoint, take the score on normally distributed noise, print it as Markdown."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Take the mutation score.")
    parser.add_argument("--variant", default="d0", help="default: d0")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the image in pixels, default: %(default)s")
    parser.add_argument("--sample", type=int, help="take only so many mutations, drawn with seed 0")
    options = parser.parse_args(arguments)
    images = np.random.default_rng(0).standard_normal((1, options.size, options.size, 3), np.float32)
    with one_thread(), tempfile.TemporaryDirectory() as name:
        checkpoint, path = write_demo(options.variant, Path(name))
        with open_checkpoint(checkpoint) as source:
            score = mutation_score(prepare(source), load_model(path), images, sample=options.sample)
    command = " ".join([COMMAND, *(sys.argv[1:] if arguments is None else arguments)])
    sys.stdout.write("\n\n".join(to_markdown(score, command, options.variant, options.size)) + "\n")


def mutation_score(
    preparation: Preparation,
    model: EfficientDet,
    images: NDArray[Any],
    dtypes: Sequence[DType] = ("float64", "float32"),
    sample: int | None = None,
) -> Score:
    """Corrupt every tensor of a converted float32 model in turn, or of a sample; the model is the same afterwards.

    The images (1, H, W, 3) must be so large that every value of a kernel meets a pixel: P7 at least 2x2.
    """
    mutations, excluded = plan_mutations(preparation.plan, model.state_dict())
    if sample is not None and sample < len(mutations):
        mutations = random.Random(0).sample(mutations, sample)
    score = Score([], [], excluded, other_networks(preparation, model, images))
    weights = Weights.of_model(model, preparation)  # shares the memory of the model's tensors
    with torch.inference_mode():
        audited = {mutation: _audited(mutation, model, weights) for mutation in mutations}
        for dtype in dtypes:
            reference = build_reference(preparation, dtype)
            matches = list(match_layers(reference.taps(images), layer_pairs(preparation.plan)))
            compared = in_dtype(model, weights, dtype)
            excesses = [_excess(match, compared, dtype) for match in matches]
            score.controls.append(Control(dtype, len(matches), sum(excess > 1 for excess in excesses), max(excesses)))
            for mutation in mutations:
                entries = [weights.targets[key] for key in mutation.tensors]
                with mutated(compared.state_dict(), mutation):
                    excess = min(_layer_excess(entry, matches, compared, dtype) for entry in entries)
                score.outcomes.append(Outcome(mutation, _kind(entries[0]), dtype, excess, audited[mutation]))
    return score


def _layer_excess(entry: Entry, matches: Iterable[Match], model: EfficientDet, dtype: DType) -> float:
    """Compare the layer that holds a tensor, on all levels that it serves."""
    owners = [match for match in matches if match.pair.layer.torch == entry.layer.torch]
    return max(_excess(match, model, dtype) for match in owners)


def _excess(match: Match, model: EfficientDet, dtype: DType) -> float:
    return match.measure_alone(model).max_over_rms / tolerance("isolated", dtype, match.pair.layer.kind)


def _audited(mutation: Mutation, model: EfficientDet, weights: Weights) -> bool:
    with mutated(model.state_dict(), mutation):
        return all(weights.count_different(key) for key in mutation.tensors)


def _kind(entry: Entry) -> str:
    target = entry.target or ""
    return f"{entry.layer.kind}: {target.removeprefix(f'{entry.layer.torch}.')}"


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
    """Corrupt tensors in place, and restore them."""
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


def to_markdown(score: Score, command: str, variant: str, size: int) -> Iterator[str]:
    """Yield the paragraphs of a page of the documentation."""
    yield "# Mutation score"
    yield f"Written by `{command}`; do not edit."
    yield (
        f"A verification is worth what it notices. Every tensor of a converted {variant} (seeded checkpoint, image of "
        f"{size}x{size} pixels) is corrupted in turn, in two ways: its largest value is multiplied by {FACTOR}; the "
        "whole tensor is exchanged with the next one of its kind and shape."
    )
    yield "\n".join(f"* **{word}**: {meaning}." for word, meaning in MEANINGS.items())
    yield f"Versions: {', '.join(f'{name} {version}' for name, version in versions().items())}."
    heading = ("mutations", "caught", "audit", "score", "smallest margin")
    yield "## Score"
    rows = _rows((outcome.dtype, outcome.mutation.how, outcome) for outcome in score.outcomes)
    yield _table(("dtype", "mutation", *heading), rows)
    yield "## Without any mutation"
    controls = [[c.dtype, str(c.layers), str(c.reported), f"{c.excess:.2g}"] for c in score.controls]
    yield _table(("dtype", "layers", "reported", "largest margin"), controls)
    yield "## The same tensors in another network"
    yield "No tensor is wrong, so the audit sees nothing. Float32; the first layer that fails, alone if possible."
    rows = [[n.change, "yes" if n.excess > 1 else "NO", n.layer, f"{n.excess:.2g}"] for n in score.networks]
    yield _table(("difference", "caught", "first layer", "margin"), rows)
    yield "## Survivors"
    survivors = [f"{' and '.join(o.mutation.tensors)}: {o.mutation.how}, {o.dtype}" for o in score.survivors]
    yield "\n".join(f"* {line}" for line in survivors) or "None."
    yield "## Left out"
    yield "\n".join(f"* {count}: {reason}" for reason, count in score.excluded.items()) or "None."
    yield "## By kind of tensor, in float32"
    rows = _rows((o.kind, o.mutation.how, o) for o in score.outcomes if o.dtype == "float32")
    yield _table(("tensor", "mutation", *heading), sorted(rows))


def _rows(outcomes: Iterable[tuple[str, str, Outcome]]) -> list[list[str]]:
    groups: defaultdict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for one, other, outcome in outcomes:
        groups[one, other].append(outcome)
    rows = []
    for key, group in groups.items():
        caught = sum(outcome.excess > 1 for outcome in group)
        counts = len(group), caught, sum(outcome.audited for outcome in group)
        margin = min(outcome.excess for outcome in group)
        rows.append([*key, *map(str, counts), f"{caught / len(group):.1%}", f"{margin:.2g}"])
    return rows


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


if __name__ == "__main__":
    main()
