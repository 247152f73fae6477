"""The report for CI servers: JUnit XML, a suite per run with a case per layer, and a suite for the audit."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from verify.detection_results import DetectionResult
from verify.report.summary import (
    Run,
    audit_sentence,
    checks,
    detection_sentence,
    diagnosis_sentence,
    failure_sentence,
    metric_rows,
    part,
    printable,
    runs,
)
from verify.results import AuditResult, LayerResult, Verification


def to_junit(verification: Verification) -> bytes:
    """Return a verification as JUnit XML in UTF-8."""
    suites = [_run_suite(verification, run) for run in runs(verification)]
    if verification.detection is not None:
        suites.append(_detection_suite(verification.detection))
    suites = suites or [_empty_suite()]
    if verification.audit is not None:
        suites.append(_audit_suite(verification.audit))
    root = ET.Element("testsuites", name="effdet-verify", time=f"{verification.seconds:.3f}")
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.attrib[count]) for suite in suites)))
    root.extend(suites)
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _run_suite(verification: Verification, run: Run) -> ET.Element:
    suite = _suite(f"{run.mode}.{run.dtype}", len(run.layers), run.failed)
    for layer in run.layers:
        case = _case(suite, f"{run.mode}.{run.dtype}.{part(layer)}", layer.name)
        if not layer.passed:
            _fail(case, "tolerance", f"{layer.name}: {failure_sentence(layer)}", _details(verification, layer))
    return suite


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


def _audit_suite(audit: AuditResult) -> ET.Element:
    if audit.passed:
        suite = _suite("audit", 1, 0)
        _case(suite, "audit", audit_sentence(audit))
        return suite
    suite = _suite("audit", len(audit.findings), len(audit.findings))
    for finding in audit.findings:
        _fail(_case(suite, "audit", finding.tensor), "audit", f"{finding.tensor}: {finding.finding}", [])
    return suite


def _detection_suite(detection: DetectionResult) -> ET.Element:
    """One case for the evaluation with its numbers as properties, and one per check."""
    found = list(checks(detection))
    suite = _suite("detections", 1 + len(found), sum(not check.passed for check in found))
    properties = ET.SubElement(suite, "properties")
    for name, value in metric_rows(detection):
        ET.SubElement(properties, "property", name=name, value=value)
    _case(suite, "detections", detection_sentence(detection))
    for check in found:
        case = _case(suite, "detections", check.name)
        if not check.passed:
            _fail(case, "detections", f"{check.name}: {check.sentence}", [])
    return suite


def _empty_suite() -> ET.Element:
    """A verification without a comparison must not look green."""
    suite = _suite("verification", 1, 1)
    _fail(_case(suite, "verification", "layers"), "empty", "no layer was compared", [])
    return suite


def _suite(name: str, tests: int, failures: int) -> ET.Element:
    return ET.Element("testsuite", name=name, tests=str(tests), failures=str(failures), errors="0", skipped="0")


def _case(suite: ET.Element, classname: str, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=printable(classname), name=printable(name))


def _fail(case: ET.Element, kind: str, message: str, details: list[str]) -> None:
    failure = ET.SubElement(case, "failure", type=kind, message=printable(message))
    failure.text = "\n".join(printable(line) for line in details or [message])
