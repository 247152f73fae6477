"""The whole conversion: a checkpoint on disk -> a PyTorch file, with a report."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.identify.hparams import given_hparams
from converter.identify.recognition import recognize_architecture, recognize_backbone
from converter.identify.settings import Settings, settle, settle_backbone
from converter.plan.copies import View, ViewName, select_view
from converter.plan.engine import Accounting, account
from converter.plan.expand import Plan, expand
from converter.plan.table import BACKBONE_TABLE, load_table
from converter.source import VariableSource
from converter.writers.targets import Target, choose_target
from effdet_torch import __version__
from effdet_torch.errors import UsageError
from effdet_torch.file_format import FORMAT_VERSION

if TYPE_CHECKING:
    from effdet_torch.terminal import Progress


@dataclass(frozen=True)
class Preparation:
    """Everything that is known before a weight is read; `verify` starts from here, too."""

    source: VariableSource
    settings: Settings
    plan: Plan
    view: View
    accounting: Accounting

    @property
    def parameters(self) -> int:
        """Values of one copy of the network, redundant biases and batch norm statistics included."""
        return sum(math.prod(shape) for shape in self.plan.variables.values())


def prepare(
    source: VariableSource,
    variant: str | None = None,
    weights: ViewName | None = None,
    hparams: str | Mapping[str, Any] | None = None,
    keep_redundant_bias: bool = False,
) -> Preparation:
    """Recognise a source, settle the config, expand the table, choose the view and account for every variable.

    Args:
        source: an open checkpoint.
        variant: check that the checkpoint is this one.
        weights: "ema" or "raw"; None takes EMA where there is one.
        hparams: hyperparameters in the official syntax, or a YAML file of them, or names and values.
        keep_redundant_bias: keep the biases in front of batch norms.

    Raises:
        ConversionError: The source is not a complete EfficientDet, or contradicts what was asked for.
        ConfigError: An option does not exist.
    """
    table = load_table()
    if backbone := recognize_backbone(source.variables, table):
        table, settings = load_table(BACKBONE_TABLE), settle_backbone(backbone, variant, hparams)
    else:
        found = recognize_architecture(source.variables, table)
        given = given_hparams(source, hparams)
        settings = settle(found, given, variant, source.path, keep_redundant_bias).with_origins(source.origins)
    plan = expand(table, settings.config)
    view = select_view(source, plan, weights)
    accounting = account(source.variables, plan, view)
    accounting.require_complete(f"{source.path} is not a complete {settings.name}")
    return Preparation(source, settings, plan, view, accounting)


def convert_checkpoint(
    preparation: Preparation,
    out: Path,
    progress: Progress | None = None,
    target: Target | None = None,
    bare: bool = False,
) -> dict[str, Any]:
    """Write the converted model, and return the metadata that went into it.

    Args:
        preparation: from `prepare`; for one of TensorFlow's formats with biases kept.
        out: a file, or a folder; an existing one is replaced only when everything went well.
        progress: called after every tensor.
        target: what to write; None goes by the suffix of `out`.
        bare: write the tensors only, without metadata.

    Raises:
        UsageError: The suffix is unknown, or the folder does not exist.
        ConversionError: A variable is damaged, or the output cannot be written.
    """
    target = target or choose_target(out)
    require_target(preparation, target)
    metadata = build_metadata(preparation)
    stored = None if bare else metadata
    target.convert(preparation.source, preparation.plan, preparation.view, out, stored, progress)
    return metadata


def require_target(preparation: Preparation, target: Target) -> None:
    """Refuse a target that cannot hold what was prepared.

    Raises:
        UsageError: A backbone alone would go to a TensorFlow format, whose settings are a detector's.
    """
    if target.is_tensorflow and preparation.settings.is_backbone:
        raise UsageError(f"{preparation.settings.name} is a backbone alone: only a detector can go to {target.name}")


def build_metadata(preparation: Preparation, checksums: bool = True) -> dict[str, Any]:
    """Return what the file says of itself: plain values, the same on every run with the same input."""
    settings, plan, view = preparation.settings, preparation.plan, preparation.view
    source = preparation.source
    return {
        "format_version": FORMAT_VERSION,
        "tool": {"name": "effdet-convert", "version": __version__},
        "table": {"name": plan.table.name, "version": plan.table.version, "sha256": plan.table.sha256},
        "variant": settings.name,
        "config": settings.to_dict(),
        "config_origins": dict(settings.origins),
        "source": {
            "kind": source.kind,
            "name": source.path.absolute().name,
            "files": describe_files(source.files(), checksums),
            **source.provenance,
        },
        "view": {"name": view.name, "reason": view.reason},
        "redundant_bias": "kept" if settings.config.redundant_bias else "folded",
    }


def describe_files(files: Iterable[Path], checksums: bool) -> list[dict[str, Any]]:
    """Return name, size and, if wanted, SHA-256 of files."""
    return [
        {"name": path.name, "size_bytes": path.stat().st_size, **({"sha256": sha256(path)} if checksums else {})}
        for path in files
    ]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
