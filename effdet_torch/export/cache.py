"""Exports that are made once and kept, for running a converted file with another runtime."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path

import torch

from effdet_torch.engines.document import EXPORT_VERSION
from effdet_torch.engines.file_engine import FileEngine, reading
from effdet_torch.engines.names import BACKENDS, require_exporter
from effdet_torch.engines.table import files_of, open_engine
from effdet_torch.errors import ConfigError, EffdetError, ModelFileError
from effdet_torch.export.export import export_model, package_versions
from effdet_torch.export.format_table import FORMATS
from effdet_torch.export.settings import ExportSettings
from effdet_torch.file_format import sha256
from effdet_torch.network.checkpoint import load_model
from effdet_torch.network.model_file import read_model_file
from effdet_torch.outputs.cache import CACHE_VARIABLE, cache_folder
from effdet_torch.terminal.verbosity import tell


def cached_engine(
    path: Path, backend: str, image_size: tuple[int, int] | None = None, check_values: bool = False
) -> FileEngine:
    """Return an engine that runs a converted file in another runtime; see `export.export_model` for the check of it.

    The export is kept in the cache folder, under the SHA-256 of the file, the settings and the versions.

    Args:
        path: a converted file.
        backend: one of `BACKENDS`.
        image_size: (height, width) of the network input; by default the model's.
        check_values: compare the values of the file with its checksums.

    Raises:
        ConfigError: There is no such backend.
        ModelFileError: The file cannot be read.
        EffdetError: It cannot be exported, or the cache cannot be written.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"unknown backend {backend!r}; expected one of {', '.join(BACKENDS)}")
    place = _place(path, backend, image_size)
    if all(file.is_file() for file in files_of(place)):
        if check_values:
            read_model_file(path, check_values=True)
        try:
            return open_engine(place)
        except ModelFileError:  # damaged: made again
            pass
    require_exporter(backend)
    model = load_model(path, check_values=check_values)
    tell(f"exporting {path} once, for {FORMATS[backend].runtime}, to {place}", err=True)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EffdetError(
            f"{place.parent} cannot be created: {error.strerror}; set {CACHE_VARIABLE} to another folder"
        ) from error
    export_model(model, place, ExportSettings(nms="none", image_size=image_size or "model"), backend)
    return open_engine(place)


def _place(path: Path, backend: str, image_size: tuple[int, int] | None) -> Path:
    """Return where the export of a file belongs: a name that changes with everything that it depends on."""
    with reading(path):
        content = sha256(path)
    machine = [platform.machine(), torch.backends.cpu.get_cpu_capability()]  # some formats hold machine code
    key = [content, backend, image_size, EXPORT_VERSION, package_versions(), machine]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    return cache_folder() / "exports" / f"{digest}{FORMATS[backend].suffix}"
