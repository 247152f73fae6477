"""Models on the Hugging Face Hub: push one with a card of what is known about it, and pull it again.

    HubModel.of(load_model("d0.pth")).push_to_hub(
        "user/my-detector",
        model_card_kwargs={"file": "d0.pth", "reports": ["report/report.json"], "license": "apache-2.0"},
    )
    model = HubModel.from_pretrained("user/my-detector")

A repository holds `model.safetensors`, `config.json` and the card. `load_model`, `create_model` and every command take
its weights as `hf:user/my-detector`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin

from effdet_torch.checks import require_type
from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import OverwriteError, UsageError
from effdet_torch.hugging_face import WEIGHTS, downloaded
from effdet_torch.integrations.model_card import TASK, model_card
from effdet_torch.network.checkpoint import load_model
from effdet_torch.network.model import EfficientDet
from effdet_torch.network.saving import save_model

CONFIG = "config.json"
DOWNLOAD = ("cache_dir", "token", "force_download", "local_files_only")  # huggingface_hub's options


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
        hub.metadata, hub.untrained_digests = model.metadata, model.untrained_digests
        return hub.train(model.training)

    def push_to_hub(self, repo_id: str, *, model_card_kwargs: Mapping[str, Any] | None = None, **options: Any) -> str:
        """Push weights, config and card; see huggingface_hub, and `generate_model_card` for what the card is told."""
        told = {"repo_id": repo_id, **(model_card_kwargs or {})}
        url: str = super().push_to_hub(repo_id, model_card_kwargs=told, **options)
        return url

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write weights, config and card into a folder; see huggingface_hub.

        Raises:
            UsageError: The card is refused, see `generate_model_card`; or the folder has a card, which huggingface_hub
                would keep although it may be about another model. Nothing is written.
        """
        if (path := Path(save_directory) / "README.md").exists():
            raise OverwriteError(f"{path} may describe another model: remove it, or choose another folder")
        # huggingface_hub makes a card after it has written the weights, and none where there is one.
        self.generate_model_card(**(options.get("model_card_kwargs") or {})).save(path)
        try:
            url: str | None = super().save_pretrained(save_directory, **options)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return url

    def _save_pretrained(self, save_directory: Path) -> None:
        save_model(self, save_directory / WEIGHTS)
        values = {"model_type": "efficientdet", **self.config.to_dict()}
        (save_directory / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        map_location: Any = "cpu",
        config: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> HubModel:
        """Return the model of a repository or folder, in eval mode; see `load_model` for what is refused.

        `config` is the content of the repository's config.json, which may not contradict the weights' own.
        """
        if unknown := [name for name in options if name not in DOWNLOAD]:
            raise UsageError(
                f"from_pretrained has no option {unknown[0]!r}: the model comes as it was saved; create_model("
                "pretrained='hf:user/repository', ...) changes its settings"
            )
        own = Path(model_id) / WEIGHTS
        file = own if own.is_file() else downloaded(model_id, revision, **options)
        model = cls.of(load_model(file, device=map_location))
        require_type(config, (Mapping, type(None)), "config", f"nothing, or the content of {CONFIG}")
        settings = json.loads(json.dumps(model.config.to_dict()))
        if other := [name for name, value in (config or {}).items() if settings.get(name, value) != value]:
            raise UsageError(
                f"{CONFIG} of {model_id} has another {other[0]} than {WEIGHTS}: they do not belong together"
            )
        return model

    def generate_model_card(
        self,
        file: str | Path | None = None,
        reports: Sequence[str | Path] = (),
        license: str | None = None,  # noqa: A002 - as the Hub spells it
        repo_id: str = "USER/NAME",
    ) -> ModelCard:
        """Return the card of the model: what it is, where it is from, and what was checked.

        Args:
            file: the file that the model was loaded from, and that effdet-verify checked; the model must have its
                settings, and its values bit for bit. Without it the card says only what the model began as.
            reports: of `effdet-verify` about that file, each `report.json`; what they found goes into the card.
            license: of the weights, by its name on the Hub; the card says "unknown" where it is not given, because a
                model that was trained on other data may have another one than the original.
            repo_id: where the model will be.

        Raises:
            UsageError: A report cannot be read, or is about another file; the model has other settings or values than
                the file.
            ModelFileError: The file cannot be read.
        """
        return model_card(self, None if file is None else Path(file), list(map(Path, reports)), license, repo_id)
