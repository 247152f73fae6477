"""The names and suffixes of the formats, for the options of commands, which must not import the formats themselves."""

from __future__ import annotations

from collections.abc import Mapping

from effdet_torch.errors import UsageError

# Of two formats with one suffix, the first is what the suffix stands for.
FORMAT_SUFFIXES: Mapping[str, str] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torch": ".pt2",
    "aoti": ".pt2",
    "torchscript": ".torchscript",
    "executorch": ".pte",
    "tensorrt": ".onnx",
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
