"""The report for CI servers: JUnit XML, a suite per run with a case per layer; then audit, graph and claim."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from effdet_torch.untrusted.text import printable
from verify.report.content.detections.checks import checks, detection_sentence, metric_rows
from verify.report.content.layer_sections import audit_sentence, diagnosis_sentence
from verify.report.content.layers import Run, failure_sentence, part, runs
from verify.report.content.verdict import basis
from verify.results.detections import DetectionResult
from verify.results.verification import AuditResult, GraphResult, LayerResult, Verification


def to_junit(verification: Verification) -> bytes:
    """Return a verification as JUnit XML in UTF-8."""
    root = ET.Element("testsuites", name="effdet-verify", time=f"{verification.seconds:.3f}")
    for run in runs(verification):
        _add_run(root, verification, run)
    if verification.detection is not None:
        _add_detections(root, verification.detection, alone=verification.verdict == "EVALUATED")
    if not len(root):  # a verification without a comparison must not look green
        case = _case(ET.SubElement(root, "testsuite", name="verification"), "verification", "layers")
        _fail(case, "empty", "no layer was compared", [])
    if verification.audit is not None:
        _add_audit(root, verification.audit)
    if verification.graph is not None and verification.graph.outputs:
        _add_graph(root, verification.graph)
    _add_claim(root, verification)
    for element in (root, *root):
        counts = {"tests": "testcase", "failures": "failure", "errors": "error"}
        element.attrib.update({count: str(len(list(element.iter(tag)))) for count, tag in counts.items()})
    for suite in root:
        suite.set("skipped", str(len(list(suite.iter("skipped")))))
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _add_run(root: ET.Element, verification: Verification, run: Run) -> None:
    suite = ET.SubElement(root, "testsuite", name=f"{run.mode}.{run.dtype}")
    for layer in run.layers:
        case = _case(suite, f"{run.mode}.{run.dtype}.{part(layer)}", layer.name)
        if not layer.passed:
            _fail(case, "tolerance", f"{layer.name}: {failure_sentence(layer)}", _details(verification, layer))


def _details(verification: Verification, layer: LayerResult) -> list[str]:
    found = layer.measures
    return [
        f"TensorFlow scope: {layer.name}",
        f"PyTorch module: {layer.torch} ({layer.kind}, NHWC {layer.shape})",
        f"error (max over rms): {found.max_over_rms:.6g}; tolerance: {layer.tolerance:.6g}",
        f"max abs: {found.max_abs:.6g}; mean abs: {found.mean_abs:.6g}; cosine: {found.cosine:.9g}",
        f"worst position (NHWC): {found.worst}; expected {found.expected:.9g}, found {found.found:.9g}",
        *(f"diagnosis: {diagnosis_sentence(x)}" for x in verification.diagnoses if x.layer == layer.name),
    ]


def _add_audit(root: ET.Element, audit: AuditResult) -> None:
    suite = ET.SubElement(root, "testsuite", name="audit")
    if audit.passed:
        _case(suite, "audit", audit_sentence(audit))
    for finding in audit.findings:
        _fail(_case(suite, "audit", finding.tensor), "audit", f"{finding.tensor}: {finding.finding}", [])


def _add_graph(root: ET.Element, graph: GraphResult) -> None:
    suite = ET.SubElement(root, "testsuite", name="graph")
    for output in graph.outputs:
        case = _case(suite, f"graph.{part(output)}", output.name)
        if not output.passed:
            _fail(case, "tolerance", f"{output.name}: {failure_sentence(output)}", [])


def _add_claim(root: ET.Element, verification: Verification) -> None:
    """Add what the verdict rests on as a property, and a case that fails where more is required."""
    suite = ET.SubElement(root, "testsuite", name="claim")
    properties = ET.SubElement(suite, "properties")
    ET.SubElement(properties, "property", name="claim", value=printable(verification.claim.text))
    case = _case(suite, "claim", "what the verdict rests on")
    if not verification.claim_suffices:
        _fail(case, "claim", basis(verification), [])
    elif verification.verdict == "EVALUATED" and verification.required is None:
        _skip(case, "nothing was compared, and no claim was required")


def _add_detections(root: ET.Element, detection: DetectionResult, alone: bool) -> None:
    """Add a case for the evaluation with its numbers as properties, and one per check; alone it is not a green test."""
    suite = ET.SubElement(root, "testsuite", name="detections")
    properties = ET.SubElement(suite, "properties")
    for name, value in metric_rows(detection):
        ET.SubElement(properties, "property", name=name, value=value)
    for note in detection.notes:
        ET.SubElement(properties, "property", name=f"data set: {note.kind}", value=printable(note.sentence))
    case = _case(suite, "detections", detection_sentence(detection))
    if alone:
        _skip(case, "evaluated; nothing was compared")
    for check in checks(detection):
        case = _case(suite, "detections", check.name)
        if not check.passed:
            _fail(case, "detections", f"{check.name}: {check.sentence}", [])


def _case(suite: ET.Element, classname: str, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=printable(classname), name=printable(name))


def _skip(case: ET.Element, message: str) -> None:
    ET.SubElement(case, "skipped", message=message)


def _fail(case: ET.Element, kind: str, message: str, details: list[str]) -> None:
    failure = ET.SubElement(case, "failure", type=kind, message=printable(message))
    failure.text = "\n".join(printable(line) for line in details or [message])
