"""The report for a terminal: verdict, first failures, worst error per run, outputs per level, audit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from verify.detection_results import DetectionResult
from verify.report.detection import checks, detection_sentence, metric_rows
from verify.report.summary import (
    audit_sentence,
    checksum_sentences,
    diagnoses_of,
    diagnosis_sentence,
    extent,
    failed_layers,
    failure_sentence,
    headline,
    number,
    other_runs,
    output_cells,
    output_name,
    outputs,
    printable,
    runs,
    subject,
)
from verify.results import Verification

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MAX_LISTED = 15


def render_terminal(verification: Verification, console: Console) -> None:
    """Print a verification; the console decides about colour and width (made for 100 columns, bearable in 80)."""
    _verdict(verification, console)
    _failures(verification, console)
    if verification.layers:
        console.print()
        console.print(_runs(verification))
    if verification.outputs:
        console.print(_outputs(verification))
    if verification.detection is not None:
        _detection(verification.detection, console)
    if verification.layers or verification.detection is None:
        _audit(verification, console)


def _verdict(verification: Verification, console: Console) -> None:
    word, style = ("PASS", "bold green") if verification.passed else ("FAIL", "bold red")
    _line(console, f"{word}  {headline(verification)}", style)
    _line(console, f"{subject(verification)}; {extent(verification)}")


def _failures(verification: Verification, console: Console) -> None:
    failed = failed_layers(verification)
    if not failed:
        return
    console.print()
    shown = f"first {MAX_LISTED} of {len(failed)}" if len(failed) > MAX_LISTED else str(len(failed))
    _line(console, f"Failed layers ({shown})", "bold")
    for comparisons in failed[:MAX_LISTED]:
        layer, others = comparisons[0], other_runs(comparisons)
        _line(console, f"{layer.name} -> {layer.torch}", "red")
        _detail(console, f"{layer.mode}, {layer.dtype}: {failure_sentence(layer)}")
        if others:
            _detail(console, others)
        for diagnosis in diagnoses_of(verification, layer):
            _detail(console, f"diagnosis: {diagnosis_sentence(diagnosis)}", "yellow")


def _runs(verification: Verification) -> Table:
    table = _table("Runs", ("run", "worst at"), ("layers", "failed", "worst error", "allowed"))
    for run in runs(verification):
        worst = run.worst
        error, allowed = number(worst.measures.max_over_rms), number(worst.tolerance)
        _row(table, (run.name, worst.name, str(len(run.layers)), str(run.failed), error, allowed), run.failed == 0)
    return table


def _outputs(verification: Verification) -> Table:
    dtypes, rows = outputs(verification)
    measures = [f"{dtype}\n{measure}" for dtype in dtypes for measure in ("max/rms", "max abs")]
    table = _table("Outputs per level", ("output", "shape, NHWC"), measures)
    for row in rows:
        layer = next(iter(row.values()))
        cells = (cell for dtype in dtypes for cell in output_cells(row.get(dtype)))
        _row(table, (output_name(layer), str(layer.shape), *cells), all(x.passed for x in row.values()))
    return table


def _detection(detection: DetectionResult, console: Console) -> None:
    _line(console, detection_sentence(detection))
    if detection.metrics:
        console.print()
        table = _table("COCO metrics, 0 to 100", (), [name for name, _ in metric_rows(detection)][:6])
        table.show_header = False
        rows = metric_rows(detection)
        for part in (rows[:6], rows[6:]):
            _row(table, [name for name, _ in part], True)
            _row(table, [value for _, value in part], True)
        console.print(table)
    for check in checks(detection):
        word, style = ("pass", "green") if check.passed else ("FAIL", "red")
        _line(console, f"{word}  {check.name}: {check.sentence}", style)


def _audit(verification: Verification, console: Console) -> None:
    audit = verification.audit
    _line(console, f"Audit: {audit_sentence(audit)}", "red" if audit is not None and not audit.passed else "")
    for sentence in checksum_sentences(audit):
        _detail(console, f"{sentence}", "yellow")
    findings = () if audit is None else audit.findings
    for finding in findings[:MAX_LISTED]:
        _detail(console, f"{finding.tensor}: {finding.finding}")
    if len(findings) > MAX_LISTED:
        _detail(console, f"and {len(findings) - MAX_LISTED} more; all of them are in report.json")


def _table(title: str, texts: Iterable[str], numbers: Iterable[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _row(table: Table, cells: Iterable[str], passed: bool) -> None:
    from rich.text import Text

    table.add_row(*(Text(printable(cell)) for cell in cells), style="" if passed else "red")


def _line(console: Console, text: str, style: str = "") -> None:
    """Print text as it is: names are neither markup nor to be highlighted."""
    from rich.text import Text

    console.print(Text(printable(text), style), overflow="fold")


def _detail(console: Console, text: str, style: str = "") -> None:
    """Print text that belongs to the line before."""
    from rich.padding import Padding
    from rich.text import Text

    console.print(Padding(Text(printable(text), style, overflow="fold"), (0, 0, 0, 2), expand=False))
