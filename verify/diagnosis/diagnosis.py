"""Why a layer differs: known mistakes are tried on every failing layer, alone, until one explains it.

A layer is studied in float64 on TensorFlow's own input, at the moment when the comparison has it in memory. Its tensors
come first: a wrong one is compared with what known mistakes make of the checkpoint, and then corrected. What remains is
the computation's: known mistakes are computed from the right tensors and compared with what the layer gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from effdet_torch.network.model import EfficientDet
from verify.diagnosis.computation_mistakes import LayerRun, explain_output
from verify.diagnosis.kernel_mistakes import Candidate
from verify.diagnosis.tensor_mistakes import describe_difference, explain
from verify.layers.pairs import layer_pairs
from verify.layers.parity import Match, match_layers
from verify.layers.tolerances import tolerance
from verify.results.verification import Diagnosis, LayerResult
from verify.subjects.references import build_reference
from verify.subjects.weights import FLOAT64, Weights, WrongTensor, in_dtype

MAX_LAYERS = 20
EXACT = tolerance("isolated", "float64", "")
UNEXPLAINED, ROUNDING = "unexplained", "rounding of float32"


def diagnose(
    layers: Sequence[LayerResult],
    model: EfficientDet,
    weights: Weights,
    images: NDArray[np.float32],
    study: Study | None,
) -> list[Diagnosis]:
    """Explain the failures of a verification: up to 20 layers in execution order.

    TensorFlow runs again only for what a comparison in float64 has not shown, and only as far as the last such layer.

    Args:
        layers: all results; these or the audit failed.
        model: the converted model in float32, as it was verified; it stays as it is.
        weights: the model's tensors and the checkpoint's.
        images: (B, H, W, 3), normalised: the input of the verification.
        study: what observed the comparison in float64; None if there was none.
    """
    with torch.inference_mode():
        study = study or Study(in_dtype(model, weights, "float64"), weights)
        _show_again(study, layers, weights, images)
    return study.diagnoses(layers)


def _show_again(study: Study, layers: Sequence[LayerResult], weights: Weights, images: NDArray[np.float32]) -> None:
    """Show a study the layers that failed, or hold wrong tensors, and that it has not judged."""
    pairs = layer_pairs(weights.preparation.plan)
    alone = [layer for layer in layers if layer.mode == "isolated"]
    failed = {layer.name for layer in alone or layers if not layer.passed}
    waiting = set(failed)
    if study.orders:
        waiting = failed - {layer.name for layer in layers if layer.dtype == "float64" and not layer.passed}
        waiting = waiting if alone else set()
    else:
        waiting |= {pair.name for pair in pairs if pair.layer.torch in study.suspects}
        study.orders.update({layer.name: layer.order for layer in alone})
    if not waiting:
        return
    reference = build_reference(weights.preparation, "float64")
    for match in match_layers(reference.taps(images), pairs):
        if match.pair.name in waiting:
            study.show(match, match.pair.name in failed and (bool(alone) or study.fails_alone(match)))
            waiting.remove(match.pair.name)
        if not waiting:
            return


class Study:
    """Layers as a comparison in float64 shows them; those that fail, or hold wrong tensors, are explained.

    Args:
        exact: the converted model in float64; it stays as it is.
        weights: its tensors and the checkpoint's.

    Attributes:
        suspects: PyTorch modules of the layers with wrong tensors to explain.
        orders: {name of a layer that was shown: its position in execution order}.
    """

    def __init__(self, exact: EfficientDet, weights: Weights) -> None:
        self._exact, self._weights = exact, weights
        owners = {key: weights.targets[key].layer.torch for key in weights.wrong}
        self.suspects = frozenset(owners[key] for key in _one_of_other_view(weights))
        self._settled = frozenset(owners.values()) - self.suspects
        self._studied: set[str] = set()
        self._broken: dict[str, int] = {}
        self._diagnoses: list[tuple[int, Diagnosis]] = []
        self.orders: dict[str, int] = {}

    def observe(self, match: Match, results: Sequence[LayerResult]) -> None:
        """Study a layer that was just compared in float64."""
        alone = [result.passed for result in results if result.mode == "isolated"]
        if alone:
            self.show(match, failed=not all(alone))
        else:  # if it fails in its place, the fault may lie in what it was given
            self.show(match, failed=not all(result.passed for result in results) and self.fails_alone(match))

    def fails_alone(self, match: Match) -> bool:
        """Run a layer alone, and return whether it differs."""
        return match.measure_alone(self._exact).max_over_rms > EXACT

    def show(self, match: Match, failed: bool) -> None:
        """Explain a layer if it failed alone or holds wrong tensors; one level of those that serve several.

        A layer that is made of other layers is explained by them where one of them is broken: they are shown before it.
        """
        module = match.pair.layer.torch
        self.orders[match.pair.name] = match.order
        if failed:
            self._broken.setdefault(module, match.order)
        if not (failed or module in self.suspects) or module in self._settled | self._studied:
            return
        parts = [name for name in self._settled | self._studied if name.startswith(f"{module}.")]
        self._studied.add(module)
        explained = {diagnosis.layer for _, diagnosis in self._diagnoses}
        if len(explained) < MAX_LAYERS and not (match.pair.comparison.composite and parts):
            self._diagnoses += [(match.order, found) for found in self._explain(match)]

    def diagnoses(self, layers: Sequence[LayerResult]) -> list[Diagnosis]:
        """Return what explains the failures of a verification, in execution order."""
        found = [diagnosis for _, diagnosis in sorted(self._diagnoses, key=lambda item: item[0])]
        return [*self._wiring(layers), *found]

    def _explain(self, match: Match) -> Iterator[Diagnosis]:
        """Explain one layer, with its wrong tensors corrected for a while."""
        belongs = match.pair.layer.torch
        keys = [key for key in self._weights.wrong if self._weights.targets[key].layer.torch == belongs]
        wrong = [self._weights.wrong_tensor(key) for key in keys]
        right = {key: np.array(self._weights.expected(key, FLOAT64)) for key in keys}
        with corrected(self._exact, right):
            remaining = match.measure_alone(self._exact).max_over_rms
            yield from _tensor_diagnoses(match, wrong, remaining)
            if remaining > EXACT:
                yield _computation_diagnosis(match, self._exact, "Once the tensors are right, " if wrong else "")
            elif not wrong:
                explanation = (
                    f"The tensors of {match.pair.module} are right, and in float64 so is its output: float32 rounding "
                    "alone exceeds the tolerance; compare with --dtype float64."
                )
                yield Diagnosis(match.pair.name, None, ROUNDING, explanation, remaining)

    def _wiring(self, layers: Sequence[LayerResult]) -> Iterator[Diagnosis]:
        """Explain a layer that differs in its place only, and neither after nor inside one that differs alone."""
        first_broken = min(self._broken.values(), default=math.inf)
        failed = [layer for layer in layers if layer.mode == "cumulative" and not layer.passed]
        failed = [layer for layer in failed if self.orders.get(layer.name, math.inf) < first_broken]
        failed = [layer for layer in failed if not any(layer.torch.startswith(f"{name}.") for name in self._broken)]
        if not failed:
            return
        first = min(failed, key=lambda layer: self.orders[layer.name])
        if all(layer.dtype == "float32" for layer in failed) and any(layer.dtype == "float64" for layer in layers):
            mistake, cause = ROUNDING, "it is right in float64, so these are accumulated rounding errors"
        else:
            mistake, cause = "another input", "so its input differs from that of TensorFlow's layer; trace it back"
        explanation = (
            f"{first.torch} computes {first.tf} correctly when it runs alone, as do all layers before it: {cause}."
        )
        yield Diagnosis(first.name, None, mistake, explanation, first.measures.max_over_rms)


def _tensor_diagnoses(match: Match, wrong: Sequence[WrongTensor], remaining: float) -> Iterator[Diagnosis]:
    """Yield one diagnosis for every mistake in a layer's tensors."""
    found: dict[str, list[tuple[WrongTensor, Candidate]]] = {}
    for tensor in wrong:
        candidate = explain(tensor) or Candidate(UNEXPLAINED, tensor.found, describe_difference(tensor))
        found.setdefault(candidate.mistake, []).append((tensor, candidate))
    for mistake, tensors in found.items():
        tensor, candidate = tensors[0]
        what = candidate.found if mistake == UNEXPLAINED else f"It {candidate.found}"
        others = f" (likewise {', '.join(other.key for other, _ in tensors[1:])})" if tensors[1:] else ""
        explanation = f"{what}{others}; {candidate.advice or _advice(tensor)}."
        yield Diagnosis(match.pair.name, tensor.key, mistake, explanation, remaining)


def _advice(tensor: WrongTensor) -> str:
    operation, where = tensor.entry.op_name, tensor.entry.layer.row.where
    return f"convert the checkpoint again; if that does not help, see {operation} in {where}"


def _computation_diagnosis(match: Match, exact: EfficientDet, condition: str) -> Diagnosis:
    """Name the mistake that gives what a layer gives on the right tensors."""
    pair, output = match.pair, match.run(exact)
    if explained := explain_output(LayerRun(exact.get_submodule(pair.alone), exact.config, match), output, EXACT):
        explanation = f"{condition}{pair.module} computes {pair.layer.tf} with {explained.words}; {explained.advice}."
        return Diagnosis(pair.name, None, explained.mistake, explanation, explained.remaining)
    found = match.measure(output)
    explanation = (
        f"{condition}{pair.module} computes something else than {pair.layer.tf}: at NHWC {found.worst} it gives "
        f"{found.found:.7g} instead of {found.expected:.7g}; compare the code of the two layers."
    )
    return Diagnosis(pair.name, None, UNEXPLAINED, explanation, found.max_over_rms)


def _one_of_other_view(weights: Weights) -> list[str]:
    """Return the wrong tensors; where most of them hold the checkpoint's other copy, only the first of these."""
    others = weights.in_other_view
    if len(others) <= max(1, len(weights.wrong) // 2):
        return list(weights.wrong)
    first = next(key for key in weights.wrong if key in others)
    return [key for key in weights.wrong if key not in others or key == first]


@contextmanager
def corrected(model: EfficientDet, tensors: Mapping[str, NDArray[np.float64]]) -> Iterator[None]:
    """Put tensors in the place of a model's, and its own back afterwards."""
    state_dict = model.state_dict()
    saved = {key: state_dict[key].clone() for key in tensors}
    try:
        for key, tensor in tensors.items():
            state_dict[key].copy_(torch.from_numpy(tensor))
        yield
    finally:
        for key, tensor in saved.items():
            state_dict[key].copy_(tensor)
