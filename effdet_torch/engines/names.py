"""The names, suffixes and packages of the formats: what the commands must know before they import a format."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from effdet_torch.errors import EffdetError, UsageError, install_command

# Of two formats with one suffix, the first is what the suffix stands for.
FORMAT_SUFFIXES: Mapping[str, str] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torch": ".pt2",
    "aoti": ".pt2",
    "torchscript": ".torchscript",
    "executorch": ".pte",
    "litert": ".tflite",
    "tensorrt": ".onnx",
}
# Format -> the extra that it needs, and the packages of it that write its files.
EXPORTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "onnx": ("onnx", ("onnx", "onnxscript")),
    "openvino": ("openvino", ("openvino", "onnx", "onnxscript")),
    "executorch": ("executorch", ("executorch",)),
    "litert": ("litert", ("ai_edge_litert", "flatbuffers")),
    "tensorrt": ("onnx", ("onnx", "onnxscript")),
}
FORMAT_NAMES = tuple(FORMAT_SUFFIXES)
BACKENDS = FORMAT_NAMES[:-1]  # those that can be run here


def format_of(suffix: str, name: str | None) -> str:
    """Return the name of the format of a file: `name`, or what its suffix stands for.

    Raises:
        UsageError: There is no such format or suffix, or they contradict each other.
    """
    known = ", ".join(f"{name} ({suffix})" for name, suffix in FORMAT_SUFFIXES.items())
    if name is None:
        by_suffix = next((name for name, own in FORMAT_SUFFIXES.items() if own == suffix.lower()), None)
        if by_suffix is None:
            raise UsageError(f"no format has the suffix {suffix!r}; expected a file of one of these formats: {known}")
        return by_suffix
    if name not in FORMAT_SUFFIXES:
        raise UsageError(f"unknown format {name!r}; expected one of {known}")
    if FORMAT_SUFFIXES[name] != suffix.lower():  # the engines know files by their suffix
        raise UsageError(f"a file of the format {name} ends in {FORMAT_SUFFIXES[name]}, not {suffix!r}; rename OUT")
    return name


def require_exporter(name: str) -> None:
    """Refuse a format before anything is loaded or said, if what writes it is missing.

    Raises:
        EffdetError: A package is not installed.
    """
    extra, packages = EXPORTERS.get(name, ("", ()))
    if missing := [package for package in packages if find_spec(package) is None]:
        raise EffdetError(
            f"writing {name} needs {', '.join(missing)}, which is not installed; {install_command(extra)}"
        )
