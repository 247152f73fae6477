"""A whole verification: layers, audit, graph and detections, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from verify.results.claim import Claim, Requirement, claim_of
from verify.results.detections import DetectionResult

Mode = Literal["isolated", "cumulative", "fused", "exported"]
DType = Literal["float32", "float64"]
Precision = Literal["float64", "float32", "float16", "int8"]
Verdict = Literal["PASS", "FAIL", "EVALUATED"]
MODES: tuple[Mode, ...] = get_args(Mode)  # in this order, each is a cause of what the next ones show


def layer_name(tf: str, level: int | None) -> str:
    """Return a layer's name in reports: its TensorFlow scope, and the level where it serves several."""
    return tf if level is None else f"{tf} (P{level})"


@dataclass(frozen=True)
class Measures:
    """How far a found array is from the expected one.

    Attributes:
        max_abs: largest absolute difference; infinite if a found value is not finite.
        max_over_rms: max_abs over the root mean square of the expected array; tolerances apply to this.
        mean_abs: mean absolute difference.
        cosine: cosine similarity of the two arrays as vectors.
        worst: NHWC position of the largest difference.
        expected: value there.
        found: value there.
    """

    max_abs: float
    max_over_rms: float
    mean_abs: float
    cosine: float
    worst: tuple[int, ...]
    expected: float
    found: float


@dataclass(frozen=True)
class LayerResult:
    """One layer, compared once.

    Attributes:
        order: position in execution order, from 0.
        tf: TensorFlow scope.
        torch: PyTorch module.
        kind: kind of the mapping row: conv, batch_norm, ...
        level: pyramid level where one layer serves several, else None.
        mode: "isolated": the PyTorch layer on TensorFlow's own input; "cumulative": both networks on the same input;
            "fused": the fused network against the model in float64, see `verify.layers.fused`; "exported": an exported
            file against its reference in float64, see `verify.exported`.
        dtype: what both sides computed in; of "fused" and "exported", what the first side computed in.
        shape: NHWC.
    """

    order: int
    tf: str
    torch: str
    kind: str
    level: int | None
    mode: Mode
    dtype: Precision
    shape: tuple[int, ...]
    measures: Measures
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.measures.max_over_rms <= self.tolerance

    @property
    def name(self) -> str:
        """TensorFlow scope, and the level where the layer serves several."""
        return layer_name(self.tf, self.level)


@dataclass(frozen=True)
class Diagnosis:
    """A mistake that explains why a layer differs.

    Attributes:
        layer: `LayerResult.name`.
        tensor: key of the wrong PyTorch tensor; None if the weights are right but the computation is not.
        mistake: short name, for example "bias not folded".
        explanation: one sentence: what was found, and what to do.
        remaining: max over rms that remains once the mistake is accounted for.
    """

    layer: str
    tensor: str | None
    mistake: str
    explanation: str
    remaining: float


@dataclass(frozen=True)
class TensorFinding:
    """A fault in one tensor of the converted file."""

    tensor: str
    finding: str


@dataclass(frozen=True)
class UnusableValues(TensorFinding):
    """Values that no network can use, whether or not the checkpoint has them too."""


@dataclass(frozen=True)
class AuditResult:
    """The converted file's tensors against the checkpoint, bit for bit.

    Attributes:
        tensors: how many were compared.
        findings: values that no network can use; tensors that differ, are missing or unexpected, or variances of 0.
        checksums: {source file: "equal", "different", "not recorded"}.
        counters: how many more count the updates of a training, for which TensorFlow has no variable.
    """

    tensors: int
    findings: tuple[TensorFinding, ...]
    checksums: Mapping[str, str]
    counters: int = 0

    @property
    def passed(self) -> bool:
        """Whether there are no findings; a source file with a different checksum is reported but does not fail."""
        return not self.findings

    @property
    def unusable(self) -> tuple[UnusableValues, ...]:
        """The findings that say more than any comparison of layers."""
        return tuple(finding for finding in self.findings if isinstance(finding, UnusableValues))


@dataclass(frozen=True)
class GraphResult:
    """TensorFlow's own graph beside the model.

    Attributes:
        name: of the file with the graph; empty if there is none.
        reason: why it was not run; empty if it was.
        outputs: the class and box outputs per level, on the same image.
        image_size: (height, width) that it was run at.
        notes: what else is to be known.
    """

    name: str
    reason: str = ""
    outputs: tuple[LayerResult, ...] = ()
    image_size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[LayerResult, ...]:
        """Outputs that exceed their tolerance."""
        return tuple(output for output in self.outputs if not output.passed)

    @property
    def passed(self) -> bool:
        """Whether no output differs; a graph that was not run passes, and the claim is weaker."""
        return not self.failures


@dataclass(frozen=True)
class Verification:
    """A whole verification.

    Attributes:
        model: provenance of the converted file: path, size, SHA-256, and its metadata.
        reference: which reference was used, with versions and the checkpoint's files.
        settings: image size, input, seed, modes, dtypes, reference.
        versions: of Python, NumPy, PyTorch and this tool.
        layers: all comparisons in execution order.
        seconds: wall time.
        detection: what an evaluation on COCO found; None if there was none.
        graph: what TensorFlow's own graph computes; None for a backbone alone and for an evaluation.
        required: the weakest claim that passes; None: any.
    """

    model: Mapping[str, Any]
    reference: Mapping[str, Any]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    layers: tuple[LayerResult, ...]
    audit: AuditResult | None
    diagnoses: tuple[Diagnosis, ...] = field(default=())
    seconds: float = 0.0
    detection: DetectionResult | None = None
    graph: GraphResult | None = None
    required: Requirement | None = None

    @property
    def claim(self) -> Claim:
        """What the verdict rests on."""
        graph, metadata = self.graph, self.model.get("metadata")
        ran = graph.name if graph is not None and graph.outputs and graph.passed else None
        return claim_of(metadata if isinstance(metadata, Mapping) else {}, ran)

    @property
    def claim_suffices(self) -> bool:
        """Whether the claim, and that of another model beside this one, is as strong as required."""
        comparison = None if self.detection is None else self.detection.comparison
        others = () if comparison is None else (comparison.claim,)
        return all(claim.satisfies(self.required) for claim in (self.claim, *others))

    @property
    def failures(self) -> tuple[LayerResult, ...]:
        """Layers that exceed their tolerance, in execution order; isolated ones, which have no earlier cause, first."""
        failed = [layer for layer in self.layers if not layer.passed]
        return tuple(sorted(failed, key=lambda layer: (MODES.index(layer.mode), layer.order)))

    @property
    def outputs(self) -> tuple[LayerResult, ...]:
        """What the heads predict: comparisons of the prediction layers with those of the reference."""
        whole = (layer for layer in self.layers if layer.mode in ("cumulative", "exported"))
        return tuple(layer for layer in whole if layer.tf.endswith("-predict") or layer.torch == "seg_head.predict")

    @property
    def has_compared(self) -> bool:
        """Whether outputs of a network were compared: of its layers, or with those of TensorFlow's own graph."""
        return bool(self.layers) or (self.graph is not None and bool(self.graph.outputs))

    @property
    def passed(self) -> bool:
        """Whether layers, audit, graph and detections passed, something was done, and the claim suffices."""
        parts = (self.audit, self.detection, self.graph)
        done = self.has_compared or self.detection is not None
        agrees = not self.failures and all(part is None or part.passed for part in parts)
        return done and agrees and self.claim_suffices

    @property
    def verdict(self) -> Verdict:
        """PASS needs a comparison: an evaluation alone has nothing that could have failed."""
        if not self.passed:
            return "FAIL"
        compared = self.has_compared or (self.detection is not None and self.detection.compared)
        return "PASS" if compared else "EVALUATED"
