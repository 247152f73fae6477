"""The sections of every report for people, in order and as plain data: terminal, Markdown and HTML only render them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from verify.report.summary import (
    Run,
    advice,
    audit_sentence,
    basis,
    by_layer,
    checks,
    detection_sentence,
    diagnosis_sentence,
    extent,
    failure_sentence,
    graph_sentences,
    headline,
    metric_rows,
    number,
    part,
    runs,
    subject,
)
from verify.results import LayerResult, Verdict, Verification

MAX_LISTED = 15

Columns = Mapping[str, Literal["text", "name", "number"]]


class Failed(str):
    """The text of a table cell that shows a failure."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """A title and whichever of the other parts there are, in this order.

    Attributes:
        title: what it is about; of the first section, the verdict.
        lines: sentences.
        columns: of a table: {title: what the cells are}; "name" is a layer or tensor. A title may have two lines.
        rows: of that table.
        items: what was found: the name of a layer or tensor, then sentences about it. Short reports list
            `MAX_LISTED` of them.
        plot: runs to draw.
        facts: nested names and values.
        failed: whether something in it failed.
        detailed: whether only the HTML page has room for it; there, its table can be sorted and filtered.
        verdict: of the first section.
        basis: of the first section: "rests on ...".
    """

    title: str
    lines: tuple[str, ...] = ()
    columns: Columns = field(default_factory=dict)
    rows: tuple[tuple[str, ...], ...] = ()
    items: tuple[tuple[str, ...], ...] = ()
    plot: tuple[Run, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    failed: bool = False
    detailed: bool = False
    verdict: Verdict = "FAIL"
    basis: str = ""

    @property
    def headline(self) -> str:
        """The verdict and what it rests on."""
        return f"{self.verdict} - {self.basis}"

    @property
    def short_title(self) -> str:
        """The title in a report that lists only the first items."""
        count = len(self.items)
        return (
            self.title if count <= MAX_LISTED else f"{self.title} (first {MAX_LISTED} of {count}; all in report.json)"
        )


def sections(verification: Verification) -> list[Section]:
    """Return the verdict, followed by the sections that have something to show."""
    builders = (_verdict, _diagnoses, _failures, _runs, _outputs, _graph, _detection, _audit, _layers, _provenance)
    return [section for build in builders for section in build(verification)]


def _verdict(verification: Verification) -> Iterator[Section]:
    lines = (f"{subject(verification)}; {extent(verification)}.", *advice(verification))
    verdict, failed = verification.verdict, not verification.passed
    yield Section(headline(verification), lines, failed=failed, verdict=verdict, basis=basis(verification))


def _diagnoses(verification: Verification) -> Iterator[Section]:
    items = tuple((diagnosis.layer, diagnosis_sentence(diagnosis)) for diagnosis in verification.diagnoses)
    if items:
        yield Section("Diagnosis", items=items, failed=True)


def _failures(verification: Verification) -> Iterator[Section]:
    items = tuple(map(_failure, by_layer(verification.failures)))
    line = "Isolated failures come first: a cumulative error carries over to every later layer."
    if items:
        yield Section("Failed layers", (line,), items=items, failed=True)


def _failure(comparisons: Sequence[LayerResult]) -> tuple[str, ...]:
    first, *others = comparisons
    errors = ((x, number(x.measures.max_over_rms), number(x.tolerance)) for x in others)
    also = "; ".join(f"{x.mode}, {x.dtype}: error {error}, allowed {allowed}" for x, error, allowed in errors)
    item = (f"{first.name} -> {first.torch}", f"{first.mode}, {first.dtype}: {failure_sentence(first)}")
    return (*item, f"also {also}") if also else item


def _runs(verification: Verification) -> Iterator[Section]:
    found = runs(verification)
    if not found:
        return
    columns: Columns = {"run": "text", "worst at": "name", **_numbers("layers", "failed", "worst error", "allowed")}
    rows = tuple(
        (run.name, run.worst.name, str(len(run.layers)), _mark(str(run.failed), run.failed > 0), *_errors(run.worst))
        for run in found
    )
    yield Section("Runs", columns=columns, rows=rows, failed=bool(verification.failures))
    caption = (
        "Largest difference of each layer's output, divided by the root mean square of TensorFlow's. Zero is drawn at "
        "the bottom, non-finite errors at the top."
    )
    yield Section("Error along the network", (caption,), plot=tuple(found), detailed=True)


def _outputs(verification: Verification) -> Iterator[Section]:
    found = sorted(verification.outputs, key=lambda layer: (layer.dtype != "float64", layer.order))
    if found:
        yield _table_of_outputs("Outputs per level", (), found)


def _graph(verification: Verification) -> Iterator[Section]:
    graph = verification.graph
    if graph is not None:
        yield _table_of_outputs("TensorFlow's own graph", tuple(graph_sentences(graph)), graph.outputs)


def _table_of_outputs(title: str, lines: tuple[str, ...], found: Sequence[LayerResult]) -> Section:
    texts: Columns = {"output": "text", "dtype": "text", "shape, NHWC": "text"}
    columns = {**texts, **_numbers("max/rms", "allowed", "max abs", "1 - cosine")}
    rows = tuple(
        (
            part(x) if x.level is None else f"{part(x)} P{x.level}",
            x.dtype,
            str(x.shape),
            *_errors(x),
            number(x.measures.max_abs),
            number(1 - x.measures.cosine),
        )
        for x in found
    )
    return Section(title, lines, columns, rows, failed=not all(x.passed for x in found))


def _detection(verification: Verification) -> Iterator[Section]:
    detection = verification.detection
    if detection is None:
        return
    columns: Columns = {"check": "text", "verdict": "text", "found": "text"}
    verdicts = {True: "pass", False: Failed("FAIL")}
    rows = tuple((check.name, verdicts[check.passed], check.sentence) for check in checks(detection))
    yield Section("Detections", (detection_sentence(detection),), columns, rows, failed=not detection.passed)
    if detection.notes:
        yield Section("Data set", tuple(note.sentence for note in detection.notes))
    metrics = metric_rows(detection)
    if metrics:
        columns = {"precision": "text", "AP": "number", "recall": "text", "AR": "number"}
        half = len(metrics) // 2
        pairs = tuple(left + right for left, right in zip(metrics[:half], metrics[half:], strict=True))
        yield Section("COCO metrics, 0 to 100", columns=columns, rows=pairs)


def _audit(verification: Verification) -> Iterator[Section]:
    audit = verification.audit
    if audit is None and not verification.layers and verification.detection is not None:
        return
    checksums = {} if audit is None else audit.checksums
    unconfirmed = (f"Checksum of {name}: {state}." for name, state in checksums.items() if state != "equal")
    items = () if audit is None else tuple((finding.tensor, finding.finding) for finding in audit.findings)
    yield Section("Audit of the file", (audit_sentence(audit), *unconfirmed), items=items, failed=bool(items))


def _layers(verification: Verification) -> Iterator[Section]:
    found = runs(verification)
    if not found:
        return
    names: Columns = {"part": "text", "TensorFlow scope": "name", "PyTorch module": "name", "kind": "text"}
    errors = _numbers(*(f"{run.mode}\n{run.dtype}" for run in found))
    columns = {**_numbers("#"), **names, "shape, NHWC": "text", **errors}
    rows = []
    for comparisons in by_layer(sorted(verification.layers, key=lambda layer: layer.order)):
        x = comparisons[0]
        cells = {(layer.mode, layer.dtype): _errors(layer)[0] for layer in comparisons}
        of_runs = (cells.get((run.mode, run.dtype), "") for run in found)
        rows.append((str(x.order), part(x), x.name, x.torch, x.kind, str(x.shape), *of_runs))
    line = "Errors as in the plot. Click a column title to sort. report.json has all measures."
    yield Section("All layers", (line,), columns, tuple(rows), detailed=True)


def _provenance(verification: Verification) -> Iterator[Section]:
    facts = {
        "Converted model": verification.model,
        "Reference": verification.reference,
        "Settings": verification.settings,
        "Versions": verification.versions,
        "Checksums of the source files": {} if verification.audit is None else verification.audit.checksums,
    }
    yield Section("Provenance", facts={title: values for title, values in facts.items() if values}, detailed=True)


def _numbers(*titles: str) -> Columns:
    return dict.fromkeys(titles, "number")


def _errors(layer: LayerResult) -> tuple[str, str]:
    """Return a layer's error and its tolerance as table cells."""
    return _mark(number(layer.measures.max_over_rms), not layer.passed), number(layer.tolerance)


def _mark(text: str, failed: bool) -> str:
    return Failed(text) if failed else text
