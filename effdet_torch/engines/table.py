"""Which engine runs which file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from effdet_torch.file_format import is_exported as is_exported

if TYPE_CHECKING:
    from effdet_torch.engines.file_engine import FileEngine


def _onnx(path: Path) -> FileEngine:
    from effdet_torch.engines.runtimes.onnx_runtime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(path)


def _openvino(path: Path) -> FileEngine:
    from effdet_torch.engines.runtimes.openvino import OpenVinoEngine

    return OpenVinoEngine(path)


def _torch(path: Path) -> FileEngine:
    from effdet_torch.engines.runtimes.exported_program import ExportedProgramEngine

    return ExportedProgramEngine(path)


def _executorch(path: Path) -> FileEngine:
    from effdet_torch.engines.runtimes.executorch import ExecuTorchEngine

    return ExecuTorchEngine(path)


def _litert(path: Path) -> FileEngine:
    from effdet_torch.engines.runtimes.litert import LiteRtEngine

    return LiteRtEngine(path)


# Suffix -> what opens the file; the runtimes are imported there, each only where it is used.
ENGINES: Mapping[str, Callable[[Path], FileEngine]] = {
    ".onnx": _onnx,
    ".xml": _openvino,
    ".pt2": _torch,
    ".torchscript": _torch,
    ".pte": _executorch,
    ".tflite": _litert,
}


def files_of(path: Path) -> tuple[Path, ...]:
    """Return an exported file and those that belong to it: OpenVINO keeps the weights apart."""
    return (path, path.with_suffix(".bin")) if path.suffix.lower() == ".xml" else (path,)


def open_engine(path: Path) -> FileEngine:
    """Open an exported file with the runtime of its suffix.

    Raises:
        ModelFileError: The file is missing, damaged, foreign, or written by another version.
        EffdetError: Its runtime is not installed.
    """
    return ENGINES[path.suffix.lower()](path)
