"""The card of a model on the Hugging Face Hub: what it is, where it is from, what was checked, and its licence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import Tensor

from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import UsageError
from effdet_torch.file_format import PARENT, TRAINING, assumptions, sha256, trained, untrained
from effdet_torch.hugging_face import local_file
from effdet_torch.network.checkpoint import load_model
from effdet_torch.network.model import EfficientDet
from effdet_torch.network.saving import saved_metadata
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
    if reports and file is None:
        raise UsageError(f"{reports[0]} is about a file: pass that file as well, to compare the model with it")
    read = {path: _read_report(path) for path in reports}
    # Without the file nobody knows whether the values are still those that its metadata describe.
    metadata = saved_metadata(model) if file is None else _require_same(model, file, read)
    found = {tuple(_checked(report, model.config)): report for report in read.values()}  # what says the same, once
    data = ModelCardData(
        library_name="effdet-convert",
        pipeline_tag=TASK,
        license=licence or UNKNOWN,
        tags=["efficientdet", "pytorch", model.config.name],
        model_name=f"efficientdet-{model.config.name}",
        eval_results=[row for report in found.values() for row in _eval_results(report, model.config)] or None,
    )
    card: ModelCard = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=f"EfficientDet {model.config.name.upper()}, {model.config.num_classes} classes",
        repo_id=repo_id,
        facts=[(name, _cell(value)) for name, value in _facts(model)],
        provenance=_listed(_provenance(metadata)),
        checked=_listed(line for lines in found for line in lines) or NOT_CHECKED,
        licence=f"{licence}, as stated by whoever published the weights here." if licence else NO_LICENCE,
    )
    return card


def _listed(lines: Iterable[str]) -> str:
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
    yield from (
        [*_origin(metadata), *(f"began as a model that was {line}" for line in _origin(parent))]
        or ["not on record: the model was not converted by effdet-convert, or was changed since"]
    )
    for record, when in ((metadata, ""), (parent, "the model that it began as: ")):
        if text := untrained(record):
            yield f"{when}{text}"
    if metadata and (assumed := assumptions(metadata)):
        yield f"assumed: {assumed}"


def _origin(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield how the values of a model were made."""
    if isinstance(source := record.get("source"), Mapping):
        files = ", ".join(f"`{file.get('name')}` SHA-256 `{file.get('sha256')}`" for file in source.get("files", ()))
        yield f"converted from {source.get('name')} ({source.get('kind')}){': ' if files else ''}{files}"
    if training := trained(record.get(TRAINING)):
        yield f"trained: {training}"


def _read_report(path: Path) -> Report:
    try:
        report = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}; pass report.json of effdet-verify --report-dir") from error
    if not isinstance(report, dict) or not {"model", "verdict", "claim", "layers"} <= report.keys():
        raise UsageError(f"{path} is not a report: expected report.json of effdet-verify --report-dir")
    return report


def _require_same(model: EfficientDet, file: Path, reports: Mapping[Path, Report]) -> Mapping[str, Any]:
    """Return the metadata of a file; refuse a model that differs from it, and reports about another file."""
    path = local_file(file)
    checked = load_model(path, allow_nonfinite=True)
    settings, own = checked.config.to_dict(), model.config.to_dict()
    if changed := [name for name in own if own[name] != settings[name]]:
        name = changed[0]
        raise UsageError(
            f"the model has {name} {own[name]}, and {file} has {settings[name]}: save the model with save_model, "
            "verify that file and pass it"
        )
    values, tensors = model.state_dict(), checked.state_dict()
    if different := [key for key in tensors | values if not _is_same(tensors.get(key), values.get(key))]:
        raise UsageError(f"the model has other values than {file}, which was checked: {different[0]}; verify it again")
    digest = sha256(path)
    for report_path, report in reports.items():
        if report["model"].get("sha256") != digest:
            raise UsageError(
                f"{report_path} is about another file than {file}: their SHA-256 differ; verify {file} again"
            )
    return checked.metadata


def _is_same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors are the same, bit for bit: also NaN and the sign of 0."""
    if one is None or other is None or one.dtype != other.dtype or one.shape != other.shape:
        return False
    bits = [tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*bits)


def _checked(report: Report, own: EfficientDetConfig) -> Iterator[str]:
    """Yield what one run of effdet-verify found, and what it was run on."""
    settings, detection = report.get("settings") or {}, report.get("detection")
    yield f"effdet-verify: {report['verdict']}, rests on {report['claim'].get('text')}"
    if report["layers"]:
        passed = sum(bool(layer.get("passed")) for layer in report["layers"])
        how = ", ".join([*settings.get("modes", ()), *settings.get("dtypes", ()), _network_input(settings, own)])
        other = (report.get("reference") or {}).get("name")
        yield f"{passed} of {len(report['layers'])} comparisons of layers agree, with {other} ({how})"
    if audit := report.get("audit"):
        result = "equal" if audit["passed"] else "not all equal"
        yield f"{audit['tensors']} tensors compared with the checkpoint's: {result}"
    if detection:
        metrics = ", ".join(f"{name} {100 * value:.1f}" for name, value in _metrics(report).items())
        yield f"{metrics} on {_images(report)}; {_conditions(report, own)}"


def _network_input(settings: Mapping[str, Any], own: EfficientDetConfig) -> str:
    size = settings.get("image_size")
    if not isinstance(size, list) or len(size) != 2:
        return "network input not on record"
    other = "" if size == list(own.image_size) else ", not the model's own {1} x {0}".format(*own.image_size)
    return f"network input {size[1]} x {size[0]} pixels{other}"


def _conditions(report: Report, own: EfficientDetConfig) -> str:
    """Return what the metrics depend on beside the model and the images."""
    settings, detection = report.get("settings") or {}, report["detection"]
    labels, backend = settings.get("labels"), settings.get("backend")
    return ", ".join(
        [
            _network_input(settings, own),
            f"exported for {backend}" if backend else "PyTorch",
            f"device {settings.get('device', 'not on record')}",
            f"profile {detection.get('profile')}",
            *([f"class names of {labels}"] if labels else []),
            str(detection.get("evaluator")),
        ]
    )


def _images(report: Report) -> str:
    settings, detection = report.get("settings") or {}, report["detection"]
    part = "all " if detection.get("complete") else ""
    return f"{part}{detection.get('images')} images of {settings.get('annotations') or 'a data set'}"


def _metrics(report: Report) -> dict[str, float]:
    metrics = (report.get("detection") or {}).get("metrics") or {}
    return {name: metrics[name] for name in METRICS if isinstance(metrics.get(name), float)}


def _eval_results(report: Report, own: EfficientDetConfig) -> Iterator[EvalResult]:
    """Yield the metrics for the Hub; only COCO's own validation split may be called "coco"."""
    for name, value in _metrics(report).items():
        annotations = (report.get("settings") or {}).get("annotations")
        is_coco = (annotations, report["detection"].get("images")) == OFFICIAL
        kind = "coco" if is_coco else "own"
        how = f"{name} ({_conditions(report, own)})"
        yield EvalResult(TASK, kind, _images(report), name, round(100 * value, 1), metric_name=how)
