"""Known mistakes in tensors: what a converted file holds when one of them was made.

A hypothesis yields candidates: the tensor as the mistake would have made it from the checkpoint. It explains a wrong
tensor that equals one of them except for rounding. The table is in order of preference: the special before the general.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import permutations

import numpy as np
import torch

from converter.plan.expand import Entry
from converter.plan.ops import Array
from verify.diagnosis.kernel_mistakes import Candidate, kernel_axes, kernel_flips
from verify.subjects.weights import WrongTensor, same_bits

CLOSE = 1e-4  # of the distance to the right tensor: float32 rounding is far below, another tensor far above
BATCH_NORM_EPSILON, FAST_ATTENTION_EPSILON = np.float32(1e-3), np.float32(1e-4)
FEW = 3
ADVICE = (
    "convert the checkpoint again with --weights {}; or, if the model was made from a file that does not name its copy "
    "(.h5, SavedModel, frozen graph), pass that file as --reference"
)
WORDS: Mapping[str, str] = {"raw": "raw", "ema": "EMA"}
# Index of a layer's place -> the word for it; the first that differs tells two layers apart.
PLACES: Mapping[str, str] = {
    "head": "head",
    "cell": "cell",
    "flat": "block",
    "node": "node",
    "offset": "input",
    "repeat": "repeat",
    "level": "level",
}


def explain(wrong: WrongTensor) -> Candidate | None:
    """Return the first mistake that explains a tensor; None if none does."""
    for operations, hypothesis in HYPOTHESES:
        if not operations or wrong.entry.op_name in operations:
            for candidate in hypothesis(wrong):
                if _explains(candidate.tensor, wrong):
                    return candidate
    return None


def _explains(candidate: Array, wrong: WrongTensor) -> bool:
    if candidate.shape != wrong.found.shape:
        return False
    if np.array_equal(candidate, wrong.found, equal_nan=True):
        return True
    found = wrong.found.astype(np.float64)
    to_candidate, to_expected = (float(np.linalg.norm(found - other)) for other in (candidate, wrong.expected))
    return to_candidate <= CLOSE * to_expected


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


def _not_finite(wrong: WrongTensor) -> Iterator[Candidate]:
    if broken := int(np.sum(~np.isfinite(wrong.found))):
        found = f"has {broken} of {wrong.found.size} values that are not finite"
        yield Candidate("values not finite", wrong.found, found)


def _other_view(wrong: WrongTensor) -> Iterator[Candidate]:
    weights = wrong.weights
    if (tensor := weights.from_other_view(wrong.key)) is not None:
        view, other = weights.preparation.view.name, weights.other_name
        count = f"as do {len(weights.in_other_view)} of the {len(weights.wrong)} wrong tensors"
        found = f"comes from the {WORDS[other]} copy and not from {weights.stored(wrong.entry)}, {count}"
        yield Candidate(f"{WORDS[other]} for {WORDS[view]}", tensor, found, ADVICE.format(view))


def _folding(wrong: WrongTensor) -> Iterator[Candidate]:
    mean, bias = wrong.sources
    names = f"{wrong.entry.sources[0]} minus {wrong.entry.folds}"
    yield Candidate("bias not folded", mean, f"is the stored {wrong.entry.sources[0]}; it should be {names}")
    yield Candidate("bias folded twice", mean - bias - bias, f"has the bias subtracted twice; it should be {names}")
    yield Candidate("bias folded with the wrong sign", mean + bias, f"has the bias added; it should be {names}")


def _fusion(wrong: WrongTensor) -> Iterator[Candidate]:
    weights, names = wrong.expected, ", ".join(wrong.entry.sources)
    for order in permutations(range(len(weights))):
        found = f"holds them in the order {order}; the order of the inputs is {names}"
        yield Candidate("fusion weights in another order", weights[list(order)], found)
    positive, exponential = np.maximum(weights, 0), np.exp(weights - weights.max())
    normalised = {
        "divided by their sum": positive / (positive.sum() + FAST_ATTENTION_EPSILON),
        "after a softmax": exponential / exponential.sum(),
        "after the relu": positive,
    }
    for words, tensor in normalised.items():
        found = f"holds the weights {words}; the network normalises them itself, so keep {names} as stored"
        yield Candidate("fusion weights normalised already", tensor.astype(weights.dtype), found)


def _variance(wrong: WrongTensor) -> Iterator[Candidate]:
    if not wrong.key.endswith("running_var"):
        return
    variance, source, epsilon = wrong.expected, wrong.entry.sources[0], BATCH_NORM_EPSILON
    with np.errstate(all="ignore"):  # a checkpoint may hold anything
        forms: Mapping[str, Array] = {
            "standard deviation": np.sqrt(variance),
            "inverse variance": 1 / variance,
            "inverse standard deviation": 1 / np.sqrt(variance),
            "inverse standard deviation with epsilon": 1 / np.sqrt(variance + epsilon),
            "sum of variance and epsilon": variance + epsilon,
        }
    for form, tensor in forms.items():
        yield Candidate(f"{form} for variance", tensor, f"is the {form} of {source}; PyTorch wants the variance")


def _other_tensor(wrong: WrongTensor) -> Iterator[Candidate]:
    """Yield the right value of another tensor, where the file has just that in this place."""
    weights, entry = wrong.weights, wrong.entry
    holders = [key for key in weights.holders_of(wrong.found) if key != wrong.key]
    exchanged = {key: same_bits(weights.found[key], wrong.expected) for key in holders}
    places = {key: _different_places(entry, weights.targets[key]) for key in holders}
    # Untrained tensors are all alike: an exchange is likelier than a copy, a neighbour than a distant tensor.
    for key in sorted(holders, key=lambda key: (not exchanged[key], len(places[key]))):
        other = weights.targets[key]
        names = f"{', '.join(other.inputs)} (of {key}) instead of {', '.join(entry.inputs)}"
        found = f"was made from {names}" + (", and vice versa" if exchanged[key] else "")
        yield Candidate(_confusion(entry, other, exchanged[key]), wrong.found, found)


def _confusion(entry: Entry, other: Entry, exchanged: bool) -> str:
    """Name what two tensors of one shape were confused by: the first place where they differ."""
    if entry.layer.tf == other.layer.tf:
        leaves = (tensor.sources[0] if tensor.sources else "counter" for tensor in (entry, other))
        parts = sorted(leaf.rsplit("/", 1)[-1].replace("_", " ") for leaf in leaves)  # gamma, moving mean
        return f"{parts[0]} and {parts[1]} {'exchanged' if exchanged else 'confused'}"
    what = {"batch_norm": "batch norm"}.get(entry.layer.kind, "tensor")
    place = next(iter(_different_places(entry, other)), "layer")
    return f"{what}s of two {place}s exchanged" if exchanged else f"{what} of another {place}"


def _different_places(entry: Entry, other: Entry) -> list[str]:
    here, there = entry.layer.indices, other.layer.indices
    return [word for index, word in PLACES.items() if here.get(index) != there.get(index)]


def _untrained(wrong: WrongTensor) -> Iterator[Candidate]:
    if wrong.found.size > 1 and (wrong.found == wrong.found.flat[0]).all():
        found = f"is {wrong.found.flat[0]:g} everywhere, like an untrained network's"
        yield Candidate("not loaded", wrong.found, found)


def _rounded(wrong: WrongTensor) -> Iterator[Candidate]:
    for dtype in (torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        tensor = torch.from_numpy(np.array(wrong.expected, np.float32)).to(dtype).float().numpy()
        yield Candidate(f"rounded to {name}", tensor, f"was stored in {name} on the way; keep float32")


def _channel_order(wrong: WrongTensor) -> Iterator[Candidate]:
    """Yield the tensor with its slices sorted as the found ones are, along the output or the input channels."""
    for axis, words in enumerate(("output", "input")[: min(wrong.found.ndim, 2)]):
        found, expected = (np.moveaxis(array, axis, 0) for array in (wrong.found, wrong.expected))
        ranks = [np.lexsort(array.reshape(len(array), -1).T[:8]) for array in (found, expected)]
        reordered = np.empty_like(expected)
        reordered[ranks[0]] = expected[ranks[1]]
        text = f"holds the right values, but its {words} channels are in another order"
        yield Candidate(f"{words} channels in another order", np.moveaxis(reordered, 0, axis), text)


def _linear(wrong: WrongTensor) -> Iterator[Candidate]:
    """Yield the tensor negated, and scaled or shifted by the constant that fits best."""
    expected, found = (array.astype(np.float64) for array in (wrong.expected, wrong.found))
    yield Candidate("sign flipped", -wrong.expected, "has the opposite sign")
    if expected.size < 3:  # a constant always fits one value, and nearly fits two
        return
    factor = float((found * expected).sum() / max(float((expected**2).sum()), np.finfo(np.float64).tiny))
    yield Candidate("scaled by a constant", expected * factor, f"is {factor:.7g} times what it should be")
    offset = float((found - expected).mean())
    yield Candidate("shifted by a constant", expected + offset, f"is {offset:+.7g} away from what it should be")


def _few_values(wrong: WrongTensor) -> Iterator[Candidate]:
    count = int((wrong.found != wrong.expected).sum())
    if count < wrong.found.size and count <= FEW:
        mistake = "one value altered" if count == 1 else "a few values altered"
        yield Candidate(mistake, wrong.found, f"is right except for {count}: {describe_difference(wrong)}")


KERNELS = ("conv", "conv_transpose", "depthwise")
# (operations of the mapping table that it applies to, or none for all; hypothesis)
HYPOTHESES: tuple[tuple[tuple[str, ...], Callable[[WrongTensor], Iterator[Candidate]]], ...] = (
    ((), _not_finite),
    ((), _other_view),
    (("fold_bias",), _folding),
    (KERNELS, kernel_flips),
    (KERNELS, kernel_axes),
    (("stack",), _fusion),
    (("keep",), _variance),
    ((), _other_tensor),
    ((), _untrained),
    ((), _rounded),
    (("keep", "fold_bias", *KERNELS), _channel_order),
    ((), _linear),
    ((), _few_values),
)
