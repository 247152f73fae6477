"""What follows where another network than the converted model differs: the conversion is not the cause."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from verify.results.verification import Diagnosis, LayerResult, Mode

# Mode -> the mistake, and what it means; {} is the first output that differs.
MEANINGS: Mapping[Mode, tuple[str, str]] = {
    "fused": (
        "fused network",
        "{} is the first output that fusing changes; the file and its conversion are not the cause. Until "
        "effdet_torch/optimize is corrected, run the model with Predictor(..., fused=False).",
    ),
    "exported": (
        "exported file",
        "{} is the first output of the file that differs, so look between it and the outputs before it: a wrong "
        "weight or operation of the file, or a wrong kernel of the runtime. Export the model again; if it stays, try "
        "another version of the runtime, or another format.",
    ),
}


def explain_first(results: Iterable[LayerResult]) -> list[Diagnosis]:
    """Return what follows from the first output that differs: one sentence, or nothing where none does."""
    failed = [result for result in results if result.mode in MEANINGS and not result.passed]
    if not failed:
        return []
    first = min(failed, key=lambda result: (result.dtype != "float64", result.order))
    mistake, explanation = MEANINGS[first.mode]
    return [Diagnosis(first.name, None, mistake, explanation.format(first.torch), first.measures.max_over_rms)]
