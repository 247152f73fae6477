"""The sections on layers: what failed and why, runs, outputs, TensorFlow's own graph, the audit, all layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from effdet_torch.terminal.text import counted
from verify.report.content.figures import LayerPlot
from verify.report.content.layers import by_layer, failure_sentence, part, runs
from verify.report.content.section import Columns, Section, marked, numbers
from verify.report.content.text import number
from verify.results.verification import AuditResult, Diagnosis, GraphResult, LayerResult, Verification

MEASURES = (
    "max/rms: the largest difference / the root mean square of the reference's output; it decides.",
    "max abs: the largest difference. 1 - cosine: 0 where both outputs have the same direction.",
)


def diagnoses(verification: Verification) -> Iterator[Section]:
    """Yield the mistakes that explain failed layers."""
    items = tuple((diagnosis.layer, diagnosis_sentence(diagnosis)) for diagnosis in verification.diagnoses)
    if items:
        yield Section("Diagnosis", items=items, failed=True)


def failed_layers(verification: Verification) -> Iterator[Section]:
    """Yield the layers that exceed their tolerance, with where and by how much."""
    items = tuple(map(_failure, by_layer(verification.failures)))
    line = "Isolated failures come first; elsewhere an error carries over to every later layer."
    if items:
        yield Section("Failed layers", (line,), items=items, failed=True)


def runs_and_plot(verification: Verification) -> Iterator[Section]:
    """Yield a row per run, and the plot of its errors along the network."""
    found = runs(verification)
    if not found:
        return
    columns: Columns = {"run": "text", "worst at": "name", **numbers("layers", "failed", "worst error", "allowed")}
    rows = tuple(
        (run.name, run.worst.name, str(len(run.layers)), marked(str(run.failed), run.failed > 0), *_errors(run.worst))
        for run in found
    )
    yield Section("Runs", columns=columns, rows=rows, failed=bool(verification.failures))
    caption = (
        "Largest difference of each layer's output, divided by the root mean square of the expected one. Zero is "
        "drawn at the bottom, non-finite errors at the top."
    )
    yield Section("Error along the network", (caption,), figure=LayerPlot(tuple(found)), detailed=True)


def outputs_per_level(verification: Verification) -> Iterator[Section]:
    """Yield the errors of the heads' outputs, float64 first."""
    found = sorted(verification.outputs, key=lambda layer: (layer.dtype != "float64", layer.order))
    if found:
        yield _table_of_outputs("Outputs per level", MEASURES, found)


def own_graph(verification: Verification) -> Iterator[Section]:
    """Yield what TensorFlow's own graph computed, or why it did not run."""
    graph = verification.graph
    if graph is not None:
        yield _table_of_outputs("TensorFlow's own graph", tuple(graph_sentences(graph)), graph.outputs)


def file_audit(verification: Verification) -> Iterator[Section]:
    """Yield what the comparison of all tensors found; nothing beside an evaluation alone."""
    audit = verification.audit
    if audit is None and not verification.layers and verification.detection is not None:
        return
    checksums = {} if audit is None else audit.checksums
    unconfirmed = (f"Checksum of {name}: {state}." for name, state in checksums.items() if state != "equal")
    items = () if audit is None else tuple((finding.tensor, finding.finding) for finding in audit.findings)
    yield Section("Audit of the file", (_audit_sentence(verification), *unconfirmed), items=items, failed=bool(items))


def all_layers(verification: Verification) -> Iterator[Section]:
    """Yield a row per layer with its error in every run."""
    found = runs(verification)
    if not found:
        return
    names: Columns = {"part": "minor", "TensorFlow scope": "name", "PyTorch module": "name", "kind": "minor"}
    errors = numbers(*(f"{run.mode}\n{run.dtype}" for run in found))
    columns = {**numbers("#"), **names, "shape, NHWC": "minor", **errors}
    rows = []
    for comparisons in by_layer(sorted(verification.layers, key=lambda layer: layer.order)):
        x = comparisons[0]
        cells = {(layer.mode, layer.dtype): _errors(layer)[0] for layer in comparisons}
        of_runs = (cells.get((run.mode, run.dtype), "") for run in found)
        rows.append((str(x.order), part(x), x.name, x.torch, x.kind, str(x.shape), *of_runs))
    line = "Errors as in the plot. Click a column title to sort. report.json has all measures."
    yield Section("All layers", (line,), columns, tuple(rows), detailed=True)


def diagnosis_sentence(diagnosis: Diagnosis) -> str:
    """Return a diagnosis without its layer."""
    where = "" if diagnosis.tensor is None else f" in {diagnosis.tensor}"
    remaining = f"Remaining error once this is accounted for: {number(diagnosis.remaining)}."
    return f"{diagnosis.mistake}{where}: {diagnosis.explanation} {remaining}"


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


def _audit_sentence(verification: Verification) -> str:
    if any(layer.mode == "exported" for layer in verification.layers):
        return "An exported file holds other tensors (batch norms are folded), so its outputs are compared instead."
    return audit_sentence(verification.audit)


def audit_sentence(audit: AuditResult | None) -> str:
    """Return what the audit of the file found."""
    if audit is None:
        return "The file's tensors were not compared with the checkpoint's."
    if audit.passed:
        others = f"{counted(audit.counters, 'counter')} of updates, for which TensorFlow has no variables"
        beside = f" Not compared: {others}." if audit.counters else ""
        return f"All {audit.tensors} tensors in the file match the checkpoint bit for bit.{beside}"
    return f"{counted(len(audit.findings), 'finding')} in the file's {counted(audit.tensors, 'tensor')}."


def _failure(comparisons: Sequence[LayerResult]) -> tuple[str, ...]:
    first, *others = comparisons
    errors = ((x, number(x.measures.max_over_rms), number(x.tolerance)) for x in others)
    also = "; ".join(f"{x.mode}, {x.dtype}: error {error}, allowed {allowed}" for x, error, allowed in errors)
    item = (f"{first.name} -> {first.torch}", f"{first.mode}, {first.dtype}: {failure_sentence(first)}")
    return (*item, f"also {also}") if also else item


def _table_of_outputs(title: str, lines: tuple[str, ...], found: Sequence[LayerResult]) -> Section:
    texts: Columns = {"output": "text", "dtype": "text", "shape, NHWC": "text"}
    columns = {**texts, **numbers("max/rms", "allowed", "max abs", "1 - cosine")}
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


def _errors(layer: LayerResult) -> tuple[str, str]:
    """Return a layer's error and its tolerance as table cells."""
    return marked(number(layer.measures.max_over_rms), not layer.passed), number(layer.tolerance)
