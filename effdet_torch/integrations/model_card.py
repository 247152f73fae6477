"""The card of a model on the Hugging Face Hub: what it is, where it is from, what was checked, and its licence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from effdet_torch.errors import UsageError
from effdet_torch.file_format import PARENT, TRAINING, assumptions, sha256, trained, untrained
from effdet_torch.network.model import EfficientDet
from effdet_torch.network.model_file import read_model_file
from effdet_torch.untrusted.documents import parse_json
from effdet_torch.untrusted.files import read_text
from effdet_torch.untrusted.text import printable_line

TASK = "object-detection"
TEMPLATE = Path(__file__).with_name("templates") / "model_card.md.j2"
NOT_CHECKED = "Nothing is on record: no report of effdet-verify was given when this card was written."
UNKNOWN = "unknown"  # the Hub's own name for it
NO_LICENCE = (
    "Not known: none was stated when this card was written. Ask whoever published the weights before you use them."
)
METRICS = ("AP", "AP50", "AP75")
OFFICIAL = ("instances_val2017.json", 5000)  # COCO's validation split: its annotations, and the number of its images
Report = Mapping[str, Any]


def model_card(
    model: EfficientDet, file: Path | None, reports: Sequence[Path], licence: str | None, repo_id: str
) -> ModelCard:
    """Return a card; see `HubModel.generate_model_card` for the arguments and errors."""
    found = [_read_report(path) for path in reports]
    if found:
        _require_checked(model, file, dict(zip(reports, found, strict=True)))
    data = ModelCardData(
        library_name="effdet-convert",
        pipeline_tag=TASK,
        license=licence or UNKNOWN,
        tags=["efficientdet", "pytorch", model.config.name],
        model_name=f"efficientdet-{model.config.name}",
        eval_results=[row for report in found for row in _eval_results(report)] or None,
    )
    card: ModelCard = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=f"EfficientDet {model.config.name.upper()}, {model.config.num_classes} classes",
        repo_id=repo_id,
        facts=[(name, _cell(value)) for name, value in _facts(model)],
        provenance=_listed(_provenance(model.metadata)),
        checked=_listed(line for report in found for line in _checked(report)) or NOT_CHECKED,
        licence=f"{licence}, as stated by whoever published the weights here." if licence else NO_LICENCE,
    )
    return card


def _listed(lines: Iterator[str]) -> str:
    return "\n".join(f"* {printable_line(line)}" for line in lines)


def _cell(text: str) -> str:
    return printable_line(text).replace("|", "\\|")


def _facts(model: EfficientDet) -> Iterator[tuple[str, str]]:
    config = model.config
    height, width = config.image_size
    yield "network input", f"{width} x {height} pixels (width x height), RGB"
    yield "parameters", f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f} M"
    names = ", ".join(name for _, name in config.label_map)
    yield "classes", f"{config.class_counts}{': ' + names if names else ''}"


def _provenance(metadata: Mapping[str, Any]) -> Iterator[str]:
    parent = metadata.get(PARENT) or {}
    source, training = metadata.get("source") or parent.get("source"), trained(metadata.get(TRAINING))
    if isinstance(source, Mapping):
        began = "converted" if "source" in metadata else "began as a model that was converted"
        yield f"{began} from {source.get('name')} ({source.get('kind')})"
        for file in source.get("files", ()):
            yield f"`{file.get('name')}`, SHA-256 `{file.get('sha256')}`"
    if training:
        yield f"trained: {training}"
    if source is None and training is None:
        yield "not on record: the model was not converted by effdet-convert, or was changed since"
    if text := untrained(metadata):
        yield text
    if metadata and (assumed := assumptions(metadata)):
        yield f"assumed: {assumed}"


def _read_report(path: Path) -> Report:
    try:
        report = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}; pass report.json of effdet-verify --report-dir") from error
    if not isinstance(report, dict) or not {"model", "verdict", "claim", "layers"} <= report.keys():
        raise UsageError(f"{path} is not a report: expected report.json of effdet-verify --report-dir")
    return report


def _require_checked(model: EfficientDet, file: Path | None, reports: Mapping[Path, Report]) -> None:
    """Refuse reports about another file than the one with the model's values."""
    if file is None:
        raise UsageError(f"{next(iter(reports))} is about a file: pass that file as well, to compare the model with it")
    tensors, digest = read_model_file(file)[0], sha256(file)
    own = model.state_dict()
    different = [key for key, tensor in tensors.items() if key not in own or not torch.equal(tensor, own[key].cpu())]
    if different:
        raise UsageError(f"the model has other values than {file}, which was checked: {different[0]}; verify it again")
    for path, report in reports.items():
        if report["model"].get("sha256") != digest:
            raise UsageError(f"{path} is about another file than {file}: their SHA-256 differ; verify {file} again")


def _checked(report: Report) -> Iterator[str]:
    """Yield what one run of effdet-verify found, and what it was run on."""
    settings, detection = report.get("settings") or {}, report.get("detection")
    yield f"effdet-verify: {report['verdict']}, rests on {report['claim'].get('text')}"
    if report["layers"]:
        passed = sum(bool(layer.get("passed")) for layer in report["layers"])
        how = ", ".join([*settings.get("modes", ()), *settings.get("dtypes", ())])
        other = (report.get("reference") or {}).get("name")
        yield f"{passed} of {len(report['layers'])} comparisons of layers agree, with {other} ({how})"
    if audit := report.get("audit"):
        result = "equal" if audit["passed"] else "not all equal"
        yield f"{audit['tensors']} tensors compared with the checkpoint's: {result}"
    if detection:
        metrics = ", ".join(f"{name} {100 * value:.1f}" for name, value in _metrics(report).items())
        yield f"{metrics} on {_images(report)}, profile {detection.get('profile')}, {detection.get('evaluator')}"


def _images(report: Report) -> str:
    settings, detection = report.get("settings") or {}, report["detection"]
    part = "all " if detection.get("complete") else ""
    return f"{part}{detection.get('images')} images of {settings.get('annotations') or 'a data set'}"


def _metrics(report: Report) -> dict[str, float]:
    metrics = (report.get("detection") or {}).get("metrics") or {}
    return {name: metrics[name] for name in METRICS if isinstance(metrics.get(name), float)}


def _eval_results(report: Report) -> Iterator[EvalResult]:
    """Yield the metrics for the Hub; only COCO's own validation split may be called "coco"."""
    for name, value in _metrics(report).items():
        annotations = (report.get("settings") or {}).get("annotations")
        is_coco = (annotations, report["detection"].get("images")) == OFFICIAL
        kind = "coco" if is_coco else "own"
        yield EvalResult(TASK, kind, _images(report), metric_type=name, metric_value=round(100 * value, 1))
