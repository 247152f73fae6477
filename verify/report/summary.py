"""What all reports say alike: the verdict in words, the runs, the parts of the network, numbers as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePath

from verify.report.detection import detection_headline
from verify.results import AuditResult, Diagnosis, DType, LayerResult, Mode, Verification

PARTS: Mapping[str, str] = {"backbone": "Backbone", "fpn": "BiFPN", "class_net": "Class head", "box_net": "Box head"}
RUN_ORDER: tuple[tuple[Mode, DType], ...] = (
    ("isolated", "float64"),
    ("isolated", "float32"),
    ("cumulative", "float64"),
    ("cumulative", "float32"),
)

Comparisons = dict[tuple[Mode, DType], LayerResult]


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
        """How many layers are beyond their tolerance."""
        return sum(not layer.passed for layer in self.layers)

    @property
    def worst(self) -> LayerResult:
        """The layer furthest beyond its tolerance, or closest to it."""
        return max(self.layers, key=excess)


def runs(verification: Verification) -> list[Run]:
    """Return the runs that took place; the strictest first."""
    found = (
        Run(mode, dtype, tuple(x for x in verification.layers if (x.mode, x.dtype) == (mode, dtype)))
        for mode, dtype in RUN_ORDER
    )
    return [run for run in found if run.layers]


def by_layer(layers: Iterable[LayerResult]) -> list[Comparisons]:
    """Gather the comparisons of the same layer, in execution order; none of them is empty."""
    gathered: dict[tuple[int, str, str], Comparisons] = {}
    for layer in layers:
        gathered.setdefault((layer.order, layer.name, layer.torch), {})[layer.mode, layer.dtype] = layer
    return [gathered[key] for key in sorted(gathered)]


def failed_layers(verification: Verification) -> list[tuple[LayerResult, ...]]:
    """Gather failures of the same layer, in the order of `Verification.failures`: the most telling first."""
    gathered: dict[tuple[int, str, str], list[LayerResult]] = {}
    for layer in verification.failures:
        gathered.setdefault((layer.order, layer.name, layer.torch), []).append(layer)
    return [tuple(comparisons) for comparisons in gathered.values()]


def other_runs(comparisons: Sequence[LayerResult]) -> str:
    """Return in which runs a layer failed besides the first one named; "" if in none."""
    others = "; ".join(f"{layer.mode}, {layer.dtype}" for layer in comparisons[1:])
    return f"also {others}" if others else ""


def outputs(verification: Verification) -> tuple[list[DType], list[dict[DType, LayerResult]]]:
    """Return the dtypes of the runs that give outputs, and per output {dtype: comparison}, in execution order."""
    dtypes = [run.dtype for run in runs(verification) if run.mode == "cumulative"]
    rows = [{dtype: x for (_, dtype), x in comparisons.items()} for comparisons in by_layer(verification.outputs)]
    return dtypes, rows


def output_name(layer: LayerResult) -> str:
    """Return part and level of an output."""
    return part(layer) if layer.level is None else f"{part(layer)} P{layer.level}"


def output_cells(layer: LayerResult | None) -> tuple[str, str]:
    """Return max over rms and max abs of an output as text; blank where it was not compared."""
    return ("", "") if layer is None else (number(layer.measures.max_over_rms), number(layer.measures.max_abs))


def excess(layer: LayerResult) -> float:
    """Return error over tolerance; infinite where the error is no number."""
    error = layer.measures.max_over_rms
    if error == 0:
        return 0.0
    if layer.tolerance <= 0 or error != error:
        return float("inf")
    return error / layer.tolerance


def part(layer: LayerResult) -> str:
    """Return the part of the network that a layer belongs to, for people."""
    root = layer.torch.partition(".")[0]
    return PARTS.get(root, root)


def part_spans(layers: Iterable[LayerResult]) -> list[tuple[str, int, int]]:
    """Return (part, first order, last order) of every stretch of layers of the same part."""
    ordered = sorted(layers, key=lambda layer: layer.order)
    stretches = ((name, [layer.order for layer in group]) for name, group in groupby(ordered, part))
    return [(name, orders[0], orders[-1]) for name, orders in stretches]


def headline(verification: Verification) -> str:
    """Return the verdict in one sentence."""
    if not verification.layers and verification.detection is not None:
        return detection_headline(verification.detection)
    if verification.passed:
        return "These two networks compute the same."
    if not verification.layers:
        return "Nothing was compared."
    if verification.failures:
        return "These two networks do not compute the same."
    return "The converted file does not hold the checkpoint's weights."


def extent(verification: Verification) -> str:
    """Return how much was compared."""
    layers, detection = len(by_layer(verification.layers)), verification.detection
    if not layers and detection is not None:
        return f"{counted(detection.images, 'image')} of {detection.split}, {verification.seconds:.1f} s"
    return f"{counted(layers, 'layer')} in {counted(len(runs(verification)), 'run')}, {verification.seconds:.1f} s"


def subject(verification: Verification) -> str:
    """Return what was compared with what."""
    model = PurePath(str(verification.model.get("path", "the converted model"))).name
    if not verification.reference and verification.detection is not None:
        return model
    return f"{model} against {verification.reference.get('name', 'the TensorFlow reference')}"


def audit_sentence(audit: AuditResult | None) -> str:
    """Return what the audit of the file found."""
    if audit is None:
        return "The file's tensors were not compared with the checkpoint's."
    if audit.passed:
        return f"All {audit.tensors} tensors of the file are what the checkpoint gives, bit for bit."
    return f"{counted(len(audit.findings), 'finding')} in {counted(audit.tensors, 'tensor')} of the file."


def checksum_sentences(audit: AuditResult | None) -> list[str]:
    """Return one sentence per source file whose checksum could not be confirmed."""
    checksums = {} if audit is None else audit.checksums
    return [f"Checksum of {name}: {state}." for name, state in checksums.items() if state != "equal"]


def diagnoses_of(verification: Verification, layer: LayerResult) -> list[Diagnosis]:
    """Return the mistakes that explain a layer."""
    return [diagnosis for diagnosis in verification.diagnoses if diagnosis.layer == layer.name]


def diagnosis_sentence(diagnosis: Diagnosis) -> str:
    """Return a diagnosis without its layer."""
    where = "" if diagnosis.tensor is None else f" in {diagnosis.tensor}"
    remains = f"the error that remains is {number(diagnosis.remaining)}"
    return f"{diagnosis.mistake}{where}: {diagnosis.explanation} Once accounted for, {remains}."


def failure_sentence(layer: LayerResult) -> str:
    """Return by how much and where a layer differs."""
    found = layer.measures
    return (
        f"error {number(found.max_over_rms)}, allowed {number(layer.tolerance)}; worst at NHWC {found.worst}: "
        f"expected {found.expected:.7g}, found {found.found:.7g}"
    )


def counted(count: int, noun: str) -> str:
    """Return a number of things."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def number(value: float) -> str:
    """Return an error or a tolerance with two digits."""
    return "0" if value == 0 else f"{value:.1e}"


def printable(text: str) -> str:
    """Replace what must not reach a terminal or an XML file: names may come from a stranger's checkpoint."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
