"""Known mistakes, each in one tensor: the explanation must name it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from converter.conversion import Preparation, prepare
from converter.plan.engine import convert
from support.sources import MemorySource, averages, plan_of, seeded, small_config
from verify.diagnosis.kernel_mistakes import Candidate
from verify.diagnosis.tensor_mistakes import describe_difference, explain
from verify.subjects.weights import Weights, WrongTensor

Array = NDArray[Any]
CONFIG = small_config(fpn_cells=2, head_repeats=2)
NORM = "fpn.cell.0.fnode.1.after_combine.conv.bn"
POINTWISE = "fpn.cell.0.fnode.1.after_combine.conv.conv_pw.weight"
DEPTHWISE = "backbone.blocks.1.0.conv_dw.weight"
STEM = "backbone.conv_stem.weight"
FUSION = "fpn.cell.0.fnode.2.combine.edge_weights"
HEAD = "class_net.bn_rep.0.0.bn"


@pytest.fixture(scope="module")
def preparation() -> Preparation:
    plan = plan_of(CONFIG)
    raw, ema = ({name: _positive(name, array) for name, array in seeded(plan, seed).items()} for seed in (0, 1))
    return prepare(MemorySource({**raw, **averages(ema)}))


def _positive(name: str, array: Array) -> Array:
    """Return variances and fusion weights as they are in a trained network."""
    return np.abs(array) + np.float32(0.1) if "moving_variance" in name or "WSM" in name else array


@pytest.fixture(scope="module")
def converted(preparation: Preparation) -> dict[str, Array]:
    return {key: np.array(tensor) for key, tensor in convert(preparation.source, preparation.plan, preparation.view)}


def wrong_tensor(
    key: str, make: Callable[[WrongTensor], Array], preparation: Preparation, converted: dict[str, Array]
) -> WrongTensor:
    """Put what `make` gives in the place of a tensor."""
    right = Weights(converted, preparation).wrong_tensor(key)
    changed = {**converted, key: np.ascontiguousarray(make(right), right.expected.dtype)}
    weights = Weights(changed, preparation)
    assert list(weights.wrong) == [key]
    return weights.wrong_tensor(key)


def altered(*positions: int) -> Callable[[WrongTensor], Array]:
    def make(wrong: WrongTensor) -> Array:
        values = wrong.expected.copy()
        values.flat[list(positions)] += 0.25
        return values

    return make


def raw(wrong: WrongTensor) -> Array:
    """Return a kernel made from the copy that is not wanted."""
    stored: Array = wrong.weights.preparation.source.read(wrong.entry.sources[0])
    return stored.transpose(3, 2, 0, 1)


MISTAKES: list[tuple[str, Callable[[WrongTensor], Array], str]] = [
    (f"{NORM}.running_mean", lambda w: w.sources[0], "bias not folded"),
    (f"{NORM}.running_mean", lambda w: w.sources[0] - 2 * w.sources[1], "bias folded twice"),
    (f"{NORM}.running_mean", lambda w: w.sources[0] + w.sources[1], "bias folded with the wrong sign"),
    (STEM, lambda w: w.sources[0].transpose(3, 2, 1, 0), "kernel not transposed: height and width exchanged"),
    (STEM, lambda w: w.sources[0].reshape(w.expected.shape), "kernel not transposed"),
    (DEPTHWISE, lambda w: w.expected.swapaxes(2, 3), "kernel not transposed: height and width exchanged"),
    (DEPTHWISE, lambda w: w.sources[0].reshape(w.expected.shape), "kernel not transposed"),
    (POINTWISE, lambda w: w.expected.swapaxes(0, 1), "input and output channels exchanged"),
    (STEM, lambda w: w.expected[:, :, ::-1, ::-1], "kernel flipped"),
    (STEM, lambda w: w.expected[:, :, ::-1], "kernel flipped"),
    (DEPTHWISE, lambda w: w.expected[..., ::-1], "kernel flipped"),
    (STEM, lambda w: w.expected[:, ::-1], "input channels reversed"),
    (FUSION, lambda w: w.expected[[0, 2, 1]], "fusion weights in another order"),
    (FUSION, lambda w: w.expected / (w.expected.sum() + 1e-4), "fusion weights normalised already"),
    (FUSION, lambda w: np.exp(w.expected) / np.exp(w.expected).sum(), "fusion weights normalised already"),
    (f"{NORM}.running_var", lambda w: np.sqrt(w.expected), "standard deviation for variance"),
    (f"{NORM}.running_var", lambda w: 1 / w.expected, "inverse variance for variance"),
    (f"{NORM}.running_var", lambda w: 1 / np.sqrt(w.expected), "inverse standard deviation for variance"),
    (f"{NORM}.running_var", lambda w: w.expected + 1e-3, "sum of variance and epsilon for variance"),
    (STEM, lambda w: np.zeros_like(w.expected), "not loaded"),
    (STEM, lambda w: w.expected.astype(np.float16), "rounded to float16"),
    (STEM, lambda w: torch.from_numpy(w.expected.copy()).bfloat16().float().numpy(), "rounded to bfloat16"),
    (STEM, lambda w: np.roll(w.expected, 1, 0), "output channels in another order"),
    (POINTWISE, lambda w: np.roll(w.expected, 1, 1), "input channels in another order"),
    (f"{NORM}.bias", lambda w: w.expected[::-1], "output channels in another order"),
    (STEM, lambda w: -w.expected, "sign flipped"),
    (f"{NORM}.weight", lambda w: w.expected * 1.5, "scaled by a constant"),
    (f"{NORM}.running_mean", lambda w: w.expected + 0.5, "shifted by a constant"),
    (STEM, raw, "raw for EMA"),
    (f"{HEAD}.bias", lambda w: w.weights.found["class_net.bn_rep.0.2.bn.bias"], "batch norm of another level"),
    (STEM, altered(7), "one value altered"),
    (STEM, altered(7, 70), "a few values altered"),
    (STEM, lambda w: np.where(w.expected == w.expected.max(), np.nan, w.expected), "values not finite"),
]


@pytest.mark.parametrize(("key", "make", "mistake"), MISTAKES)
def test_tensor_mistakes(
    key: str,
    make: Callable[[WrongTensor], Array],
    mistake: str,
    preparation: Preparation,
    converted: dict[str, Array],
) -> None:
    assert explained(wrong_tensor(key, make, preparation, converted)).mistake == mistake


def explained(wrong: WrongTensor) -> Candidate:
    candidate = explain(wrong)
    assert candidate is not None
    return candidate


def test_words(preparation: Preparation, converted: dict[str, Array]) -> None:
    noise = np.random.default_rng(0).standard_normal(converted[STEM].shape)
    wrong = wrong_tensor(STEM, lambda w: w.expected + noise, preparation, converted)
    assert explain(wrong) is None
    assert describe_difference(wrong).startswith(f"{noise.size} of {noise.size} values differ, most at (")
    found = explained(wrong_tensor(STEM, altered(7), preparation, converted)).found
    before = converted[STEM].flat[7]
    assert f"at (0, 0, 2, 1): expected {before:.7g}, found {before + np.float32(0.25):.7g}" in found
    advice = explained(wrong_tensor(STEM, raw, preparation, converted)).advice
    assert "--weights ema" in advice
    assert "does not name its copy (.h5" in advice


@pytest.mark.parametrize(
    ("one", "other", "mistake"),
    [
        (f"{HEAD}.weight", f"{HEAD}.bias", "beta and gamma exchanged"),
        (f"{HEAD}.running_mean", f"{HEAD}.running_var", "moving mean and moving variance exchanged"),
        (f"{HEAD}.weight", "class_net.bn_rep.0.1.bn.weight", "batch norms of two levels exchanged"),
        (f"{HEAD}.weight", "class_net.bn_rep.1.0.bn.weight", "batch norms of two repeats exchanged"),
        (f"{HEAD}.weight", "box_net.bn_rep.0.0.bn.weight", "batch norms of two heads exchanged"),
        ("backbone.blocks.2.0.bn3.bias", "backbone.blocks.2.1.bn3.bias", "batch norms of two blocks exchanged"),
        ("backbone.blocks.1.0.bn1.bias", "backbone.blocks.1.0.bn2.bias", "batch norms of two layers exchanged"),
        (POINTWISE, POINTWISE.replace("fnode.1", "fnode.2"), "tensors of two nodes exchanged"),
        (POINTWISE, POINTWISE.replace("cell.0", "cell.1"), "tensors of two cells exchanged"),
    ],
)
def test_exchanged_tensors(
    one: str, other: str, mistake: str, preparation: Preparation, converted: dict[str, Array]
) -> None:
    weights = Weights({**converted, one: converted[other], other: converted[one]}, preparation)
    assert set(weights.wrong) == {one, other}
    for key, partner in ((one, other), (other, one)):
        candidate = explained(weights.wrong_tensor(key))
        assert candidate.mistake == mistake
        assert partner in candidate.found


def test_untrained_tensors_are_taken_for_their_neighbours(
    preparation: Preparation, converted: dict[str, Array]
) -> None:
    """All gammas of a level that was never trained are 1: of those, the nearest is named."""
    ones = np.ones_like(converted[f"{HEAD}.weight"])
    holders = [f"class_net.bn_rep.{repeat}.{level}.bn.weight" for repeat, level in ((1, 1), (1, 2), (0, 2))]
    gammas = {preparation.plan.targets[key].sources[0]: ones for key in holders}
    stored = {preparation.view.stored[name]: gamma for name, gamma in gammas.items()}
    assert isinstance(preparation.source, MemorySource)
    untrained = prepare(MemorySource(preparation.source.arrays | stored))
    right = converted | dict.fromkeys(holders, ones)
    candidate = explained(wrong_tensor(f"{HEAD}.weight", lambda _: ones, untrained, right))
    assert candidate.mistake == "batch norm of another level"
    assert holders[2] in candidate.found
