"""Exported files: what they compute inside, by the names that the exporter gives (`effdet_torch.network.model`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from effdet_torch.engines.document import INPUT
from effdet_torch.engines.file_engine import FileEngine, running, to_bytes
from effdet_torch.engines.runtimes.onnx_runtime import read_onnx
from effdet_torch.engines.runtimes.openvino import FULL_PRECISION
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
        {name: tensor (1, C, H, W)} of those that the file has; nothing for a format whose runtime does not show them.

    Raises:
        ModelFileError: The runtime fails.
    """
    if not has_inner_outputs(engine):
        return {}
    run = RUNTIMES[engine.path.suffix.lower()]
    given = pixels if engine.interface.pixels == "normalized" else to_bytes(pixels, engine.config)
    with running(engine.path, engine.runtime):
        found = run(engine.path, np.repeat(given, engine.interface.batch or 1, axis=0), names)
    return {name: array[:1] for name, array in found.items()}


def has_inner_outputs(engine: FileEngine) -> bool:
    """Whether the runtime of a file can show inner tensors."""
    return engine.path.suffix.lower() in RUNTIMES


def seen_pixels(engine: FileEngine, pixels: Array) -> Array:
    """Return network input (B, 3, H, W) as a file sees it: one that takes bytes sees whole values."""
    if engine.interface.pixels == "normalized":
        return pixels
    seen: Array = Normalization(engine.config)(torch.from_numpy(to_bytes(pixels, engine.config))).numpy()
    return seen


def _onnx_runtime(path: Path, given: Array, names: Sequence[str]) -> dict[str, Array]:
    import onnx
    import onnxruntime

    model = onnx.load_from_string(read_onnx(path))
    computed = {output for node in model.graph.node for output in node.output}
    shown = [name for name in names if name in computed]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in shown)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal; errors arrive as exceptions
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(shown, session.run(shown, {INPUT: given}), strict=True))


def _openvino(path: Path, given: Array, names: Sequence[str]) -> dict[str, Array]:
    import openvino

    core = openvino.Core()
    model = core.read_model(path, path.with_suffix(".bin"))
    computed = {name for node in model.get_ops() for output in node.outputs() for name in output.get_names()}
    shown = [name for name in names if name in computed]
    model.add_outputs(shown)
    found = core.compile_model(model, "CPU", FULL_PRECISION)({INPUT: given})
    return {name: found[name] for name in shown}


# Suffix -> what runs the file with further outputs: (file, input as the file takes it, names) -> {name: tensor}.
RUNTIMES: Mapping[str, Callable[[Path, Array, Sequence[str]], dict[str, Array]]] = {
    ".onnx": _onnx_runtime,
    ".xml": _openvino,
}
