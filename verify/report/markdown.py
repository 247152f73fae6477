"""The report for a CI job's summary page: GitHub-flavoured Markdown, short, what failed first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from verify.detection_results import DetectionResult
from verify.report.detection import checks, detection_sentence, metric_rows
from verify.report.summary import (
    audit_sentence,
    checksum_sentences,
    diagnosis_sentence,
    extent,
    failed_layers,
    headline,
    number,
    output_cells,
    output_name,
    outputs,
    printable,
    runs,
    subject,
)
from verify.results import DType, LayerResult, Verification

MAX_LISTED = 10
PUNCTUATION = re.compile(r"([\\`*_{}\[\]<>&|~$@#!])")


def to_markdown(verification: Verification) -> str:
    """Return verdict, failed layers, diagnoses, runs, outputs per level and audit as Markdown."""
    verdict = "PASS" if verification.passed else "FAIL"
    blocks = [
        f"## {verdict}: {headline(verification)}",
        f"{_prose(subject(verification))}: {_prose(extent(verification))}.",
        *_failures(verification),
        *_diagnoses(verification),
        *_runs(verification),
        *_outputs(verification),
        *_detection(verification.detection),
        *(_audit(verification) if verification.layers or verification.detection is None else ()),
    ]
    return "\n\n".join(blocks) + "\n"


def _failures(verification: Verification) -> Iterator[str]:
    failed = failed_layers(verification)
    if failed:
        yield f"### Failed layers{_of_all(len(failed))}"
        yield _table(("TensorFlow", "PyTorch", "run: error, allowed"), map(_failure, failed[:MAX_LISTED]))


def _failure(comparisons: Sequence[LayerResult]) -> Iterator[str]:
    yield _code(comparisons[0].name)
    yield _code(comparisons[0].torch)
    errors = ((x.mode, x.dtype, number(x.measures.max_over_rms), number(x.tolerance)) for x in comparisons)
    yield "<br>".join(f"{mode}, {dtype}: {error}, {allowed}" for mode, dtype, error, allowed in errors)


def _diagnoses(verification: Verification) -> Iterator[str]:
    if not verification.diagnoses:
        return
    listed = verification.diagnoses[:MAX_LISTED]
    yield f"### Diagnosis{_of_all(len(verification.diagnoses))}"
    yield "\n".join(f"* {_code(item.layer)}: {_prose(diagnosis_sentence(item))}" for item in listed)


def _runs(verification: Verification) -> Iterator[str]:
    rows = [
        (
            run.name,
            str(len(run.layers)),
            str(run.failed),
            number(run.worst.measures.max_over_rms),
            number(run.worst.tolerance),
            _code(run.worst.name),
        )
        for run in runs(verification)
    ]
    if rows:
        yield "### Runs"
        yield _table(("run", "layers", "failed", "worst error", "allowed", "at"), rows)


def _outputs(verification: Verification) -> Iterator[str]:
    dtypes, rows = outputs(verification)
    if rows:
        header = (f"{dtype}: {measure}" for dtype in dtypes for measure in ("max over rms", "max abs"))
        yield "### Outputs per level"
        yield _table(("output", *header), (_output(row, dtypes) for row in rows))


def _output(row: Mapping[DType, LayerResult], dtypes: Iterable[DType]) -> Iterator[str]:
    yield _prose(output_name(next(iter(row.values()))))
    for dtype in dtypes:
        layer = row.get(dtype)
        bold = "**" if layer is not None and not layer.passed else ""
        yield from (f"{bold}{cell}{bold}" for cell in output_cells(layer))


def _detection(detection: DetectionResult | None) -> Iterator[str]:
    if detection is None:
        return
    yield "### Detections"
    yield _prose(detection_sentence(detection))
    if detection.metrics:
        names, values = zip(*metric_rows(detection), strict=True)
        yield _table(names, [values])
    found = list(checks(detection))
    if found:
        rows = ((_prose(x.name), "pass" if x.passed else "**FAIL**", _prose(x.sentence)) for x in found)
        yield _table(("check", "verdict", "found"), rows)


def _audit(verification: Verification) -> Iterator[str]:
    yield "### Audit of the file"
    yield _prose(" ".join([audit_sentence(verification.audit), *checksum_sentences(verification.audit)]))
    findings = () if verification.audit is None else verification.audit.findings
    if findings:
        yield "\n".join(f"* {_code(item.tensor)}: {_prose(item.finding)}" for item in findings[:MAX_LISTED])


def _of_all(count: int) -> str:
    return f" ({MAX_LISTED} of {count}; all are in report.json)" if count > MAX_LISTED else ""


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(header)
    cells = [titles, ["---"] * len(titles), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _code(name: str) -> str:
    """Return a name as a code span, whatever it holds: the fence is longer than any run of backticks inside."""
    text = printable(name)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    padding = " " if "`" in text else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def _prose(text: str) -> str:
    return PUNCTUATION.sub(r"\\\1", printable(text))
