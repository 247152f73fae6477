"""Files of torch itself: exported programs and AOTInductor packages (`.pt2`), TorchScript (`.torchscript`).

Loading one can run code that is in it, so unlike other files they must come from someone you trust.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from effdet_torch.engines.document import MAX_DOCUMENT_BYTES, read_document
from effdet_torch.engines.file_engine import Array, FileEngine, quiet, reading, running
from effdet_torch.errors import ModelFileError
from effdet_torch.file_format import METADATA_KEY
from effdet_torch.untrusted.files import ARCHIVE_ERRORS, MAX_MODEL_BYTES, require_regular

DOCUMENT = f"{METADATA_KEY}.json"  # a file in the archive
MACHINE_CODE = "/data/aotinductor/"
SCRIPT = "/code/"


class ExportedProgramEngine(FileEngine):
    """See `FileEngine`; the kind of archive decides what loads it."""

    def __init__(self, path: Path) -> None:
        kind, stored = read_archive(path)
        self.runtime = f"PyTorch {torch.__version__.partition('+')[0]}"
        super().__init__(path, read_document(path, stored))
        with running(path, self.runtime), quiet():
            self._call = LOADERS[kind](path)

    def _run(self, pixels: Array) -> list[Array]:
        with running(self.path, self.runtime), quiet(), torch.inference_mode():
            outputs = self._call(torch.from_numpy(pixels))
        return [tensor.numpy() for tensor in flat(outputs)]


def read_archive(path: Path) -> tuple[str, bytes | None]:
    """Return the kind of an archive, a key of `LOADERS`, and its document, before anything of it is loaded.

    Raises:
        ModelFileError: It is not an archive, or damaged.
    """
    try:
        with reading(path):
            require_regular(path, MAX_MODEL_BYTES)
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                place = next((name for name in names if name.endswith(f"/{DOCUMENT}")), None)
                stored = None if place is None else archive.open(place).read(MAX_DOCUMENT_BYTES + 1)
    except ARCHIVE_ERRORS as error:
        raise ModelFileError(f"{path} is damaged, or not a file of torch: {error}. Copy it again.") from error
    kinds = {"aoti": MACHINE_CODE, "torchscript": SCRIPT}
    return next((kind for kind, part in kinds.items() if any(part in name for name in names)), "torch"), stored


def flat(outputs: Any) -> list[torch.Tensor]:
    """Return the tensors of nested lists and tuples, in order."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for item in outputs for tensor in flat(item)]


def _load_program(path: Path) -> Callable[[torch.Tensor], Any]:
    module: Callable[[torch.Tensor], Any] = torch.export.load(path).module()
    return module


def _load_package(path: Path) -> Callable[[torch.Tensor], Any]:
    from torch._inductor import aoti_load_package  # late: torch's compiler

    package: Callable[[torch.Tensor], Any] = aoti_load_package(str(path))
    return package


def _load_script(path: Path) -> Callable[[torch.Tensor], Any]:
    script: Callable[[torch.Tensor], Any] = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return script


LOADERS: Mapping[str, Callable[[Path], Callable[[torch.Tensor], Any]]] = {
    "torch": _load_program,
    "aoti": _load_package,
    "torchscript": _load_script,
}
