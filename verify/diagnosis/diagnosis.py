"""Why a layer differs: the usual mistakes are tried on every failing layer, alone, until one explains it.

A layer is studied in float64 on TensorFlow's own input. Its tensors come first: a wrong one is compared with what known
mistakes make of the checkpoint, and then corrected. What remains is the computation's: known mistakes are computed from
the right tensors and compared with what the layer gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from converter.conversion import Preparation
from effdet_torch.network.model import EfficientDet
from verify.diagnosis.cases import Case, collect_cases
from verify.diagnosis.computation_mistakes import explain_output
from verify.diagnosis.layer_run import LayerRun
from verify.diagnosis.tensor_mistakes import explain
from verify.layers.pairs import COMPOSITES, Pair, layer_pairs
from verify.layers.parity import compare_layers, to_nchw
from verify.layers.tolerances import tolerance
from verify.results import Diagnosis, LayerResult, Verification
from verify.subjects.weights import Candidate, Weights, WrongTensor, describe_difference
from verify.verification import build_reference, in_dtype

MAX_LAYERS = 20
EXACT = tolerance("isolated", "float64", "")
UNEXPLAINED, ROUNDING = "unexplained", "rounding of float32"


def diagnose(
    result: Verification, model: EfficientDet, preparation: Preparation, images: NDArray[np.float32]
) -> list[Diagnosis]:
    """Explain the failures of a verification: up to 20 layers in execution order.

    A layer that is made of other layers is explained by them where one of them fails.

    Args:
        result: with failures of layers or of the audit.
        model: the converted model in float32, as it was verified; it stays as it is.
        preparation: of the checkpoint.
        images: (B, H, W, 3), normalised: the input of the verification.
    """
    weights = Weights({key: tensor.numpy() for key, tensor in model.state_dict().items()}, preparation)
    with torch.inference_mode():
        exact = in_dtype(model, preparation, "float64")
        isolated = [layer for layer in result.layers if layer.mode == "isolated"]
        if not isolated:
            reference = build_reference(preparation, "built-in", "float64")
            isolated = compare_layers(reference, exact, preparation.plan, images, "float64", ("isolated",))
        suspects = _suspects(layer_pairs(preparation.plan), isolated, weights)
        reference = build_reference(preparation, "built-in", "float64")
        cases = collect_cases(reference, suspects, images, "float64") if suspects else ()
        diagnoses = [found for case in cases for found in _diagnose_layer(case, exact, weights)]
    return [*_wiring(result.layers, isolated), *diagnoses]


def _suspects(pairs: Iterable[Pair], isolated: Iterable[LayerResult], weights: Weights) -> list[Pair]:
    """Return which layers to study: one level of those that serve several, parts before what they form."""
    order = {(layer.tf, layer.level): layer.order for layer in reversed(list(isolated))}
    failed = {(layer.tf, layer.level) for layer in isolated if not layer.passed}
    owners = {weights.entry(key).layer.torch for key in _one_of_other_view(weights)}
    settled = {weights.entry(key).layer.torch for key in weights.wrong} - owners
    found: dict[str, Pair] = {}
    for pair in pairs:
        suspected = (pair.layer.tf, pair.level) in failed or pair.layer.torch in owners
        if suspected and pair.layer.torch not in settled:
            found.setdefault(pair.layer.torch, pair)
    broken = {*found, *settled}
    parts = [pair for pair in found.values() if not _contains_another(pair, broken)]
    parts.sort(key=lambda pair: order.get((pair.layer.tf, pair.level), len(order)))
    return parts[:MAX_LAYERS]


def _one_of_other_view(weights: Weights) -> list[str]:
    """Return the wrong tensors; of those that hold the other copy only the first where they are the most."""
    others = weights.in_other_view
    if len(others) <= max(1, len(weights.wrong) // 2):
        return list(weights.wrong)
    first = next(key for key in weights.wrong if key in others)
    return [key for key in weights.wrong if key not in others or key == first]


def _contains_another(pair: Pair, broken: Iterable[str]) -> bool:
    inside = f"{pair.layer.torch}."
    return pair.layer.kind in COMPOSITES and any(module.startswith(inside) for module in broken)


def _diagnose_layer(case: Case, exact: EfficientDet, weights: Weights) -> Iterator[Diagnosis]:
    """Explain one layer; its wrong tensors are put right in `exact` on the way."""
    wrong = [weights.wrong_tensor(key) for key in weights.wrong if _belongs(key, case.pair, weights)]
    state_dict = exact.state_dict()
    for tensor in wrong:
        right = np.array(weights.expected(tensor.key, np.dtype(np.float64)))
        state_dict[tensor.key].copy_(torch.from_numpy(right))
    remaining = case.error(exact)
    yield from _tensor_diagnoses(case, wrong, remaining, weights)
    if remaining > EXACT:
        yield _computation_diagnosis(case, exact, "Once the tensors are right, " if wrong else "")
    elif not wrong:
        explanation = (
            f"The tensors of {case.pair.module} are right, and in float64 so is its output: rounding alone exceeds the "
            "tolerance; compare with --dtype float64."
        )
        yield Diagnosis(case.name, None, ROUNDING, explanation, remaining)


def _belongs(key: str, pair: Pair, weights: Weights) -> bool:
    return weights.entry(key).layer.torch == pair.layer.torch


def _tensor_diagnoses(
    case: Case, wrong: Sequence[WrongTensor], remaining: float, weights: Weights
) -> Iterator[Diagnosis]:
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
        yield Diagnosis(case.name, tensor.key, mistake, explanation, remaining)


def _advice(tensor: WrongTensor) -> str:
    operation, where = tensor.entry.op_name, tensor.entry.layer.row.where
    return f"convert the checkpoint again; if it stays, see {operation} in {where}"


def _computation_diagnosis(case: Case, exact: EfficientDet, condition: str) -> Diagnosis:
    """Name the mistake that gives what a layer gives on the right tensors."""
    output, match = case.run(exact), case.match
    expected = match.expected if match.bias is None else match.expected - match.bias
    run = LayerRun(
        module=exact.get_submodule(case.pair.alone),
        inputs=case.inputs,
        expected=to_nchw(expected, "float64"),
        scale=float(np.sqrt(np.mean(match.expected**2))),
        config=exact.config,
        activated=case.pair.output_from[0].endswith("-act"),
    )
    name, what = case.pair.module, case.pair.layer.tf
    if explained := explain_output(case.pair.layer.kind, run, output, EXACT):
        mistake, advice = explained.computation.mistake, explained.computation.advice
        explanation = f"{condition}{name} computes {what} with {explained.words}; {advice}."
        return Diagnosis(case.name, None, mistake, explanation, explained.remaining)
    found = case.measure(output)
    explanation = (
        f"{condition}{name} computes something else than {what}: at {found.worst} (NHWC) {found.found:.7g} instead of "
        f"{found.expected:.7g}; compare the code of the two layers."
    )
    return Diagnosis(case.name, None, UNEXPLAINED, explanation, found.max_over_rms)


def _wiring(layers: Sequence[LayerResult], isolated: Sequence[LayerResult]) -> Iterator[Diagnosis]:
    """Explain a layer that differs in its place only, before any that differs alone: its input is another."""
    order = {layer.name: layer.order for layer in isolated}
    broken = min((layer.order for layer in isolated if not layer.passed), default=len(order))
    failed = [layer for layer in layers if layer.mode == "cumulative" and not layer.passed]
    failed = [layer for layer in failed if order.get(layer.name, broken) < broken]
    if not failed:
        return
    first = min(failed, key=lambda layer: order[layer.name])
    if all(layer.dtype == "float32" for layer in failed) and any(layer.dtype == "float64" for layer in layers):
        mistake, cause = ROUNDING, "in float64 it is right in its place, too, so roundings have added up"
    else:
        mistake, cause = "another input", "so it is not given what TensorFlow's layer is given; follow its input back"
    explanation = f"{first.torch} computes {first.tf} rightly when it is alone, as do all layers before it: {cause}."
    yield Diagnosis(first.name, None, mistake, explanation, first.measures.max_over_rms)
