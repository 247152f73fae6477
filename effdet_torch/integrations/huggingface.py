"""Models on the Hugging Face Hub: push one with a card of what is known about it, and pull it again.

    HubModel.of(load_model("d0.pth")).push_to_hub("user/my-detector", model_card_kwargs={"report": "report.json"})
    model = HubModel.from_pretrained("user/my-detector")

A repository holds `model.safetensors`, which every command and `load_model` take, `config.json` and the card.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData, PyTorchModelHubMixin, hf_hub_download

from effdet_torch.checks import require_type
from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import UsageError
from effdet_torch.file_format import PARENT, TRAINING, assumptions, trained
from effdet_torch.network.checkpoint import load_model
from effdet_torch.network.model import EfficientDet
from effdet_torch.network.saving import save_model
from effdet_torch.untrusted.documents import parse_json
from effdet_torch.untrusted.files import read_text

WEIGHTS, CONFIG, TASK = "model.safetensors", "config.json", "object-detection"
TEMPLATE = Path(__file__).with_name("templates") / "model_card.md.j2"
NOT_CHECKED = "Nothing is on record: no report of effdet-verify was given when this card was written."


class HubModel(
    EfficientDet, PyTorchModelHubMixin, library_name="effdet-convert", pipeline_tag=TASK, tags=["efficientdet"]
):
    """An `EfficientDet` that can be pushed to the Hub and pulled from it, with huggingface_hub's own methods."""

    def __init__(self, config: EfficientDetConfig) -> None:
        super().__init__(config)

    @classmethod
    def of(cls, model: EfficientDet) -> HubModel:
        """Return a model that shares the tensors of another.

        Raises:
            UsageError: It is something else.
        """
        require_type(model, EfficientDet, "model", "an EfficientDet, which load_model and create_model return")
        with torch.device("meta"):
            hub = cls(model.config)
        hub.load_state_dict(model.state_dict(keep_vars=True), strict=True, assign=True)
        hub.metadata = model.metadata
        return hub.train(model.training)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_model(self, save_directory / WEIGHTS)
        values = {"model_type": "efficientdet", **self.config.to_dict()}
        (save_directory / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None, cache_dir: str | Path | None, token: Any = None, **options: Any
    ) -> HubModel:
        """Return the model of a repository or folder, in eval mode; see `load_model` for what is refused."""
        if (Path(model_id) / WEIGHTS).is_file():
            return cls.of(load_model(Path(model_id) / WEIGHTS))
        shared = {name: options[name] for name in ("force_download", "local_files_only") if name in options}
        file = hf_hub_download(model_id, WEIGHTS, revision=revision, cache_dir=cache_dir, token=token, **shared)
        return cls.of(load_model(file))

    def generate_model_card(
        self, report: str | Path | None = None, licence: str | None = None, repo_id: str = "USER/NAME", **_: Any
    ) -> ModelCard:
        """Return the card of the model: what it is, where it is from, and what was checked.

        Args:
            report: `report.json` of `effdet-verify`; its verdict and AP go into the card.
            licence: of the weights, by its name on the Hub; the card leaves it open where it is not given, because a
                model that was trained on other data may have another one than the original.
            repo_id: where the model will be.

        Raises:
            UsageError: The report cannot be read.
        """
        found = None if report is None else _read_report(Path(report))
        data = ModelCardData(
            library_name="effdet-convert",
            pipeline_tag=TASK,
            license=licence,
            tags=["efficientdet", "pytorch", self.config.name],
            model_name=f"efficientdet-{self.config.name}",
            eval_results=list(_eval_results(found)) or None,
        )
        card: ModelCard = ModelCard.from_template(
            data,
            template_path=str(TEMPLATE),
            title=f"EfficientDet {self.config.name.upper()}, {self.config.num_classes} classes",
            repo_id=repo_id,
            facts=list(_facts(self)),
            provenance="\n".join(f"* {line}" for line in _provenance(self.metadata)),
            checked="\n".join(f"* {line}" for line in _checked(found)) or NOT_CHECKED,
        )
        return card


def _facts(model: EfficientDet) -> Iterator[tuple[str, str]]:
    config = model.config
    height, width = config.image_size
    yield "network input", f"{width} x {height} pixels (width x height), RGB"
    yield "parameters", f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f} M"
    names = ", ".join(name for _, name in config.label_map)
    yield "classes", f"{config.num_classes}{': ' + names if names else ''}"


def _provenance(metadata: Mapping[str, Any]) -> Iterator[str]:
    source = metadata.get("source") or (metadata.get(PARENT) or {}).get("source")
    if isinstance(source, Mapping):
        yield f"converted from {source.get('name')} ({source.get('kind')})"
        for file in source.get("files", ()):
            yield f"`{file.get('name')}`, SHA-256 `{file.get('sha256')}`"
    if training := trained(metadata.get(TRAINING)):
        yield f"trained: {training}"
    if source is None and training is None:
        yield "not on record: the model was not converted by effdet-convert, or was changed since"
    if metadata and (assumed := assumptions(metadata)):
        yield f"assumed: {assumed}"


def _read_report(path: Path) -> Mapping[str, Any]:
    try:
        report = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}; pass report.json of effdet-verify --report-dir") from error
    if not isinstance(report, dict) or not {"verdict", "claim", "layers"} <= report.keys():
        raise UsageError(f"{path} is no report: expected report.json of effdet-verify --report-dir")
    return report


def _checked(report: Mapping[str, Any] | None) -> Iterator[str]:
    if report is None:
        return
    passed = sum(bool(layer.get("passed")) for layer in report["layers"])
    yield f"effdet-verify: {report['verdict']}, rests on {report['claim'].get('text')}"
    if report["layers"]:
        yield f"{passed} of {len(report['layers'])} comparisons of layers with TensorFlow agree"
    for name, value in _metrics(report).items():
        yield f"{name} {100 * value:.1f}"


def _metrics(report: Mapping[str, Any] | None) -> dict[str, float]:
    detection = (report or {}).get("detection") or {}
    metrics = detection.get("metrics") or {}
    return {name: metrics[name] for name in ("AP", "AP50", "AP75") if isinstance(metrics.get(name), float)}


def _eval_results(report: Mapping[str, Any] | None) -> Iterator[EvalResult]:
    dataset = ((report or {}).get("detection") or {}).get("dataset") or "own data"
    for name, value in _metrics(report).items():
        yield EvalResult(TASK, "coco", str(dataset), metric_type=name, metric_value=round(100 * value, 1))
