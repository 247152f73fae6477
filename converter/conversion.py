"""The whole conversion: a checkpoint on disk -> a PyTorch file, with a report."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from converter.engine import Accounting, account, convert
from converter.expand import Plan, expand
from converter.hparams import given_hparams
from converter.ops import Array
from converter.readers.base import VariableSource
from converter.recognition import recognize_architecture
from converter.settings import Settings, settle
from converter.table import load_table
from converter.views import View, ViewName, select_view
from converter.writers.atomic import replacing
from converter.writers.pth import write_pth
from converter.writers.safetensors import write_safetensors
from converter.writers.specs import TensorSpec
from effdet_torch import __version__
from effdet_torch.errors import UsageError

FORMAT_VERSION = 1

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)
Writer = Callable[[IO[bytes], Mapping[str, TensorSpec], Iterable[tuple[str, Array]], Mapping[str, Any]], None]

WRITERS: Mapping[str, Writer] = {".pth": write_pth, ".pt": write_pth, ".safetensors": write_safetensors}


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
    hparams: str | None = None,
    keep_redundant_bias: bool = False,
) -> Preparation:
    """Recognise a source, settle the config, expand the table, choose the view and account for every variable.

    Args:
        source: an open checkpoint.
        variant: check that the checkpoint is this one.
        weights: "ema" or "raw"; None takes EMA where there is one.
        hparams: hyperparameters in the official syntax, or a YAML file of them.
        keep_redundant_bias: keep the biases in front of batch norms.

    Raises:
        ConversionError: The source is not a complete EfficientDet, or contradicts what was asked for.
        ConfigError: An option does not exist.
    """
    table = load_table()
    found = recognize_architecture(source.variables, table)
    given = given_hparams(source.folder, hparams)
    settings = settle(found, given, variant, source.path, keep_redundant_bias)
    plan = expand(table, settings.config)
    view = select_view(source, plan, weights)
    accounting = account(source.variables, plan, view)
    accounting.require_complete(f"{source.path} is not a complete {settings.config.name}")
    return Preparation(source, settings, plan, view, accounting)


def convert_checkpoint(preparation: Preparation, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Write the converted model, and return the metadata that went into it.

    Args:
        preparation: from `prepare`.
        out: `.pth`, `.pt` or `.safetensors`; an existing file is replaced only when everything went well.
        progress: called after every tensor.

    Raises:
        UsageError: The suffix is unknown, or the folder does not exist.
        ConversionError: A variable is damaged, or the output cannot be written.
    """
    writer = writer_for(out)
    metadata = build_metadata(preparation)
    specs = tensor_specs(preparation.plan)
    tensors = convert(preparation.source, preparation.plan, preparation.view)
    with replacing(out) as stream:
        writer(stream, specs, _counted(tensors, specs, progress), metadata)
    return metadata


def writer_for(out: Path) -> Writer:
    """Return the writer that a file name asks for.

    Raises:
        UsageError: The suffix is unknown, or the folder does not exist.
    """
    if out.suffix not in WRITERS:
        raise UsageError(f"{out} ends in {out.suffix or 'nothing'!r}; expected one of {', '.join(WRITERS)}")
    if not out.parent.is_dir():
        raise UsageError(f"the folder {out.parent} does not exist; create it first")
    if out.is_dir():
        raise UsageError(f"{out} is a folder; expected the name of a file")
    return WRITERS[out.suffix]


def build_metadata(preparation: Preparation, checksums: bool = True) -> dict[str, Any]:
    """Return what the file says of itself: plain values, the same on every run with the same input."""
    settings, plan, view = preparation.settings, preparation.plan, preparation.view
    source = preparation.source
    return {
        "format_version": FORMAT_VERSION,
        "tool": {"name": "effdet-convert", "version": __version__},
        "table": {"name": plan.table.name, "version": plan.table.version, "sha256": plan.table.sha256},
        "variant": settings.config.name,
        "config": settings.config.to_dict(),
        "config_origins": dict(settings.origins),
        "source": {
            "kind": source.kind,
            "name": source.path.absolute().name,
            "files": describe_files(source.files(), checksums),
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


def tensor_specs(plan: Plan) -> dict[str, TensorSpec]:
    """Return dtype and shape of every tensor of the result."""
    return {
        key: TensorSpec(np.dtype(np.float32 if entry.sources else np.int64), entry.target_shape)
        for key, entry in plan.targets.items()
    }


def _counted(
    tensors: Iterable[tuple[str, Array]], specs: Mapping[str, TensorSpec], progress: Progress | None
) -> Iterator[tuple[str, Array]]:
    done, total = 0, sum(spec.size_bytes for spec in specs.values())
    for name, array in tensors:
        yield name, array
        done += specs[name].size_bytes
        if progress is not None:
            progress(done, total)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
