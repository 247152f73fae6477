"""What several reports share: comparisons gathered by run and layer, sentences, and numbers as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

from verify.claim import Requirement
from verify.detection_results import (
    AP_TOLERANCE,
    MIN_MATCHED_SHARE,
    PUBLISHED_TOLERANCE,
    DetectionParity,
    DetectionResult,
)
from verify.results import AuditResult, Diagnosis, DType, GraphResult, LayerResult, Mode, Verification

PARTS: Mapping[str, str] = {"backbone": "Backbone", "fpn": "BiFPN", "class_net": "Class head", "box_net": "Box head"}
RUN_ORDER: tuple[tuple[Mode, DType], ...] = (
    ("isolated", "float64"),
    ("isolated", "float32"),
    ("cumulative", "float64"),
    ("cumulative", "float32"),
)

# --require -> what to do where the claim is weaker.
ADVICE: Mapping[Requirement, str] = {
    "graph": "Pass a SavedModel, a frozen graph, or a checkpoint with the .meta of an inference graph as --reference.",
    "config": "Put config.yaml beside the checkpoint or state its settings with --hparams, and convert it again.",
}


@dataclass(frozen=True)
class Run:
    """All layers of one pass through the network: one mode, one dtype."""

    mode: Mode
    dtype: DType
    layers: tuple[LayerResult, ...]

    @property
    def name(self) -> str:
        """Mode and dtype."""
        return f"{self.mode}, {self.dtype}"

    @property
    def failed(self) -> int:
        """How many layers exceed their tolerance."""
        return sum(not layer.passed for layer in self.layers)

    @property
    def worst(self) -> LayerResult:
        """The layer furthest beyond its tolerance, or closest to it."""
        return max(self.layers, key=excess)


class Check(NamedTuple):
    """One comparison of an evaluation, ready to print."""

    name: str
    sentence: str
    passed: bool


def runs(verification: Verification) -> list[Run]:
    """Return the runs that took place, the strictest first."""
    found = (Run(*run, tuple(x for x in verification.layers if (x.mode, x.dtype) == run)) for run in RUN_ORDER)
    return [run for run in found if run.layers]


def by_layer(layers: Iterable[LayerResult]) -> list[list[LayerResult]]:
    """Gather the comparisons of each layer; layers come in the order of their first comparison."""
    gathered: dict[tuple[int, str, str], list[LayerResult]] = {}
    for layer in layers:
        gathered.setdefault((layer.order, layer.name, layer.torch), []).append(layer)
    return list(gathered.values())


def excess(layer: LayerResult) -> float:
    """Return error over tolerance; infinite where the error is NaN."""
    error = layer.measures.max_over_rms
    if layer.tolerance <= 0 or error != error:
        return 0.0 if error == 0 else float("inf")
    return error / layer.tolerance


def part(layer: LayerResult) -> str:
    """Return the part of the network that a layer belongs to, as shown to people."""
    root = layer.torch.partition(".")[0]
    return PARTS.get(root, root)


def basis(verification: Verification) -> str:
    """Return what the verdict rests on; it stands beside the verdict."""
    if verification.audit is not None and verification.audit.unusable:
        return headline(verification)
    claim = verification.claim
    weaker = f"; --require {verification.required} asks for more"
    return f"rests on {claim.text}{'' if verification.claim_suffices else weaker}"


def advice(verification: Verification) -> Iterator[str]:
    """Yield how a verdict can rest on more, where it must."""
    if not verification.claim_suffices:
        yield ADVICE[verification.required or "config"]


def headline(verification: Verification) -> str:
    """Return the verdict in one sentence."""
    detection, graph = verification.detection, verification.graph
    if verification.audit is not None and (unusable := verification.audit.unusable):
        more = f" (and {len(unusable) - 1} more)" if unusable[1:] else ""
        first = f"{unusable[0].tensor}: {unusable[0].finding}"
        return f"The converted file holds values that no network can use: {first}{more}."
    if verification.failures:
        return "The two networks do not compute the same outputs."
    if verification.audit is not None and not verification.audit.passed:
        return "The converted file does not hold the checkpoint's weights."
    if graph is not None and not graph.passed:
        return f"TensorFlow's own graph ({graph.name}) computes other outputs: {listed_outputs(graph)}."
    if detection is not None and not (verification.layers and detection.passed):
        return _detection_headline(detection)
    return _agreement(verification) if verification.layers else "Nothing was compared."


def listed_outputs(graph: GraphResult) -> str:
    """Return the outputs that differ: "class P3, P4; box P3"."""
    heads = {part(output): [x for x in graph.failures if part(x) == part(output)] for output in graph.failures}
    return "; ".join(f"{head.lower()} {', '.join(f'P{x.level}' for x in found)}" for head, found in heads.items())


def graph_sentences(graph: GraphResult) -> Iterator[str]:
    """Yield what was done with TensorFlow's own graph, and what follows."""
    if graph.reason:
        yield f"Not run: {graph.reason}."
        return
    height, width = graph.image_size or ("?", "?")
    yield f"{graph.name} ran on the same image as the model, {width}x{height} pixels (width x height)."
    yield from graph.notes
    if not graph.passed:
        yield (
            "If layers and audit pass, a setting of the file is not the graph's: compare act_type, fpn_weight_method, "
            "fpn_config, survival_prob and conv_after_downsample, and convert again with --hparams."
        )


def subject(verification: Verification) -> str:
    """Return what was compared with what."""
    model = PurePath(str(verification.model.get("path", "the converted model"))).name
    if not verification.reference and verification.detection is not None:
        return model
    return f"{model} against {verification.reference.get('name', 'the TensorFlow reference')}"


def extent(verification: Verification) -> str:
    """Return how much was compared, and how long it took."""
    layers, detection = len(by_layer(verification.layers)), verification.detection
    compared = f"{counted(layers, 'layer')} in {counted(len(runs(verification)), 'run')}"
    if not layers and detection is not None:
        compared = f"{counted(detection.images, 'image')} of {detection.split}"
    return f"{compared}, {verification.seconds:.1f} s"


def checks(detection: DetectionResult) -> Iterator[Check]:
    """Yield all that was compared: the published AP, the expected detections, the stages."""
    if (ap := detection.published) is not None:
        yield Check(
            "published AP",
            f"AP {ap.measured:.2f}, published for {ap.checkpoint}: {ap.published:.1f} "
            f"(allowed difference {PUBLISHED_TOLERANCE}).",
            ap.passed,
        )
    if detection.parity is not None:
        yield Check("expected detections", _parity_sentence(detection.parity), detection.parity.passed)
    for stage in detection.stages:
        where = "" if stage.image_id is None else f", image {stage.image_id}"
        sentence = f"{stage.measure} {stage.error:.2g}, allowed {stage.tolerance:.2g}{where}."
        yield Check(f"stage {stage.stage}", sentence, stage.passed)


def metric_rows(detection: DetectionResult) -> list[tuple[str, str]]:
    """Return name and value of COCO's 12 numbers, in 0..100; "n/a" where there is nothing to find."""
    return [(name, "n/a" if value < 0 else f"{100 * value:.2f}") for name, value in detection.metrics.items()]


def detection_sentence(detection: DetectionResult) -> str:
    """Return what was evaluated."""
    evaluator = f"; metrics by {detection.evaluator}" if detection.evaluator else ""
    return (
        f"{counted(detection.detections, 'detection')} in {counted(detection.images, 'image')}, "
        f"{'all' if detection.complete else 'part'} of {detection.split}; profile {detection.profile}{evaluator}."
    )


def audit_sentence(audit: AuditResult | None) -> str:
    """Return what the audit of the file found."""
    if audit is None:
        return "The file's tensors were not compared with the checkpoint's."
    if audit.passed:
        return f"All {audit.tensors} tensors in the file match the checkpoint bit for bit."
    return f"{counted(len(audit.findings), 'finding')} in the file's {counted(audit.tensors, 'tensor')}."


def diagnosis_sentence(diagnosis: Diagnosis) -> str:
    """Return a diagnosis without its layer."""
    where = "" if diagnosis.tensor is None else f" in {diagnosis.tensor}"
    remaining = f"Remaining error once this is accounted for: {number(diagnosis.remaining)}."
    return f"{diagnosis.mistake}{where}: {diagnosis.explanation} {remaining}"


def failure_sentence(layer: LayerResult) -> str:
    """Return by how much and where a layer differs."""
    found = layer.measures
    return (
        f"error {number(found.max_over_rms)}, allowed {number(layer.tolerance)}; worst at NHWC {found.worst}: "
        f"expected {found.expected:.7g}, found {found.found:.7g}"
    )


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless the count is 1."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def number(value: float) -> str:
    """Return an error or a tolerance with two digits."""
    return "0" if value == 0 else f"{value:.1e}"


def printable(text: str) -> str:
    """Replace characters that must not reach a terminal or an XML file: a stranger may have chosen the names."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _agreement(verification: Verification) -> str:
    """Return what agrees: equal outputs are claimed only where both modes ran in both dtypes."""
    ran = [(run.mode, run.dtype) for run in runs(verification)]
    if len(ran) == len(RUN_ORDER):
        return "The two networks compute the same outputs."
    parts = (" and ".join(dict.fromkeys(names)) for names in zip(*ran, strict=True))
    return f"All layers agree in what was run: {', '.join(parts)} only."


def _detection_headline(detection: DetectionResult) -> str:
    if failed := [check.name for check in checks(detection) if not check.passed]:
        return f"The detections differ from what was expected: {', '.join(failed)}."
    return "The detections are as expected." if detection.compared else "The model was evaluated; nothing was compared."


def _parity_sentence(parity: DetectionParity) -> str:
    ap = "" if parity.ap_difference is None else f"; AP difference {parity.ap_difference:+.6f}, allowed {AP_TOLERANCE}"
    first = "" if parity.first_difference is None else f"; first image that differs: {parity.first_difference}"
    return (
        f"{parity.matched} of {parity.expected} detections of {parity.source} matched, {parity.surplus} surplus: "
        f"{100 * parity.matched_share:.2f} %, required {100 * MIN_MATCHED_SHARE:.1f} %; largest error "
        f"{parity.max_box_error_px:.2g} px in a box, {parity.max_score_error:.2g} in a score{ap}{first}."
    )
