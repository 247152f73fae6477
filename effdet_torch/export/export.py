"""Export a model: choose the format, write, check, and only then put the files in their places."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from effdet_torch.checks import require_label_map, require_type
from effdet_torch.engines.checksum import CONTENT_CHECKSUM, SEALED, UNSEALED, seal
from effdet_torch.engines.document import Document, make_document
from effdet_torch.engines.file_engine import Array
from effdet_torch.engines.names import format_of, require_exporter
from effdet_torch.engines.table import open_engine
from effdet_torch.errors import OutputError, UsageError
from effdet_torch.export.check import Checked, check_file
from effdet_torch.export.format_table import FORMATS
from effdet_torch.export.formats import Cell, Format, require_possible
from effdet_torch.export.settings import OPSET, ExportSettings, require_calibration
from effdet_torch.export.writers.program import Job
from effdet_torch.file_format import UNTRAINED
from effdet_torch.network.model import EfficientDet
from effdet_torch.network.saving import untrained_parts
from effdet_torch.outputs.atomic import replacing

LOG = logging.getLogger("effdet")
CALIBRATED = "calibrated_on"  # in the document: on how many images
# What may take part.
PACKAGES = ("effdet-convert", "torch", "onnx", "onnxscript", "openvino", "executorch", "ai-edge-litert", "flatbuffers")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: the file, and those beside it.
        format: of the file.
        document: in the file.
        cell: what is known of this use of the format.
        checked: the outcome of the check; None if it was skipped.
    """

    files: list[Path]
    format: Format
    document: Document
    cell: Cell
    checked: Checked | None


def export_model(
    model: EfficientDet,
    out: str | Path,
    settings: ExportSettings | None = None,
    format_name: str | None = None,
    check: bool = True,
    label_map: Mapping[int, str] | None = None,
    calibration: Collection[Array] = (),
    **options: Any,
) -> Exported:
    """Export a model to a file; everything is written, or nothing.

    Args:
        model: in float32, on the CPU, in eval mode.
        out: the file.
        settings: what the file shall be; by default the model's image size, one image at a time, and the network
            alone, but for litert.
        format_name: a key of `FORMATS`; by default of OUT's suffix.
        check: run the file and compare it with the model before it is kept.
        label_map: {category id: name}, which the file and whatever is made of it has; by default the model's.
        calibration: for int8, to measure the range of every tensor with: images (1, 3, H, W) float32 each, as the
            network takes them, such as `inference.calibration.CalibrationImages`.
        **options: fields of `ExportSettings`, instead of those of `settings`: nms="soft", batch=8, ...

    Raises:
        UsageError: An argument does not fit, the model is in another state, or the format is unknown or cannot hold
            what the settings say.
        EffdetError: The exporter or the runtime fails or is not installed, or the file gives other outputs.
        OutputError: A file cannot be written.
    """
    _require_ready(model)
    config = model.config
    if label_map is not None:
        config = replace(config, label_map=tuple(require_label_map(label_map, config.num_classes).items()))
    require_type(out, (str, os.PathLike), "out", "the path of the new file")
    settings, out = _settings(settings or ExportSettings(), options), Path(out)
    row = FORMATS[format_of(out.suffix, format_name)]
    require_exporter(row.name)
    if settings.opset is not None and row.suffix != ".onnx":
        raise UsageError(f"opset is for .onnx files, and {out.name} is not one; leave out --opset")
    require_type(calibration, Collection, "calibration", "images (1, 3, H, W) float32, such as CalibrationImages")
    require_calibration(settings.precision, len(calibration))
    interface = row.interface(settings, model.config)
    cell = require_possible(row, interface)
    metadata = {name: value for name, value in model.metadata.items() if name != UNTRAINED}
    metadata |= {CALIBRATED: len(calibration)} if len(calibration) else {}
    metadata |= {UNTRAINED: parts} if (parts := untrained_parts(model)) else {}
    metadata |= {CONTENT_CHECKSUM: UNSEALED} if row.suffix in SEALED else {}
    document = make_document(config, interface, metadata, package_versions())
    with tempfile.TemporaryDirectory(prefix="effdet-export-") as folder:
        job = Job(model, document, row.detector, settings.opset or OPSET, calibration)
        try:
            written = row.write(job, Path(folder, out.name))
        except OSError as error:
            raise OutputError(
                f"{out} cannot be written: {error.strerror}, in {Path(folder).parent}, where files are made; nothing "
                "was changed. Set TMPDIR to a folder with more room"
            ) from error
        if row.suffix in SEALED:
            seal(written[0])
        LOG.info("wrote %s with %s", out.name, row.name)
        # 8 bits hold the values of such images; those of noise go beyond them.
        pixels = next(iter(calibration), None)
        checked = check_file(open_engine(written[0]), model, pixels) if check and row.is_run else None
        _put(written, out.parent)
    return Exported([out.parent / path.name for path in written], row, document, cell, checked)


def _require_ready(model: EfficientDet) -> None:
    """Refuse a model that the check would change (in training mode), or that no exporter takes (in half precision)."""
    require_type(model, EfficientDet, "model", "an EfficientDet, which load_model returns")
    found = {f"{str(tensor.dtype).removeprefix('torch.')} on {tensor.device.type}" for tensor in model.parameters()}
    modes = {"training mode" if module.training else "eval mode" for module in model.modules()}
    if found != {"float32 on cpu"} or modes != {"eval mode"}:
        raise UsageError(
            f"the model is in {', '.join(sorted(found))}, {' and '.join(sorted(modes))}; expected float32 on cpu, eval "
            "mode: pass model.float().cpu().eval()"
        )


def _settings(settings: ExportSettings, options: Mapping[str, Any]) -> ExportSettings:
    require_type(settings, ExportSettings, "settings", "ExportSettings")
    known = [field.name for field in fields(settings)]
    if unknown := [name for name in options if name not in known]:
        raise UsageError(f"unknown option {unknown[0]!r}; expected one of {', '.join(known)}")
    return replace(settings, **options)


def _put(written: Iterable[Path], folder: Path) -> None:
    with ExitStack() as stack:
        for path in written:  # the last one is moved into place first
            shutil.copyfileobj(stack.enter_context(path.open("rb")), stack.enter_context(replacing(folder / path.name)))


def package_versions() -> dict[str, str]:
    """Return {package: version} of everything that may take part in an export."""
    return {name: found.version for name in PACKAGES for found in distributions(name=name)}
