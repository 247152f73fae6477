"""Exported files: what they compute inside, by the names that the exporter gives (`effdet_torch.network.model`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from effdet_torch.engines.document import EXPORT_AGAIN, INPUT
from effdet_torch.engines.file_engine import FileEngine, to_bytes
from effdet_torch.engines.onnx_runtime import read_onnx
from effdet_torch.engines.openvino import FULL_PRECISION
from effdet_torch.errors import ModelFileError
from effdet_torch.export.detector import Normalization

Array = NDArray[Any]


def inner_outputs(engine: FileEngine, pixels: Array, names: Sequence[str]) -> dict[str, Array]:
    """Run an exported file with some of its inner tensors as further outputs; the file stays as it is.

    The runtime optimises the graph as it always does, but for what would merge with one of these tensors.

    Args:
        engine: with the file.
        pixels: (1, 3, H, W) float32, normalised.
        names: of the tensors.

    Returns:
        {name: tensor (1, C, H, W)}; nothing for a format whose runtime does not show them.

    Raises:
        ModelFileError: The file does not have one of them.
        EffdetError: The runtime fails.
    """
    run = RUNTIMES.get(engine.path.suffix.lower())
    if run is None:
        return {}
    given = pixels if engine.interface.pixels == "normalized" else to_bytes(pixels, engine.config)
    found = run(engine.path, np.repeat(given, engine.interface.batch or 1, axis=0), names)
    return {name: array[:1] for name, array in zip(names, found, strict=True)}


def seen_pixels(engine: FileEngine, pixels: Array) -> Array:
    """Return network input (B, 3, H, W) as a file sees it: one that takes bytes sees whole values."""
    if engine.interface.pixels == "normalized":
        return pixels
    seen: Array = Normalization(engine.config)(torch.from_numpy(to_bytes(pixels, engine.config))).numpy()
    return seen


def _onnx_runtime(path: Path, given: Array, names: Sequence[str]) -> list[Array]:
    import onnx
    import onnxruntime

    model = onnx.load_from_string(read_onnx(path))
    _require_names(path, names, {output for node in model.graph.node for output in node.output})
    own = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in own)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal; errors arrive as exceptions
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(list(names), {INPUT: given})
    return found


def _openvino(path: Path, given: Array, names: Sequence[str]) -> list[Array]:
    import openvino

    core = openvino.Core()
    model = core.read_model(path, path.with_suffix(".bin"))
    _require_names(path, names, {name for node in model.get_ops() for x in node.outputs() for name in x.get_names()})
    own = {name for output in model.outputs for name in output.get_names()}
    model.add_outputs([name for name in names if name not in own])
    found = core.compile_model(model, "CPU", FULL_PRECISION)({INPUT: given})
    return [found[name] for name in names]


def _require_names(path: Path, wanted: Sequence[str], present: set[str]) -> None:
    if missing := [name for name in wanted if name not in present]:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ModelFileError(f"{path} has no inner tensor {missing[0]}{more}, which shows a layer. {EXPORT_AGAIN}")


# Suffix -> what runs the file with further outputs: (file, input as the file takes it, names) -> tensors.
RUNTIMES: Mapping[str, Callable[[Path, Array, Sequence[str]], list[Array]]] = {
    ".onnx": _onnx_runtime,
    ".xml": _openvino,
}
