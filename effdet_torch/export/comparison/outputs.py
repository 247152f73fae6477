"""Raw outputs of a file beside those of the model in float64."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from effdet_torch.engines.document import Precision
from effdet_torch.engines.file_engine import Array, FileEngine
from effdet_torch.errors import EffdetError
from effdet_torch.network.model import EfficientDet

# Largest error of an output, of the rms of that output. float32: sums in another order differ by 1e-5 to 3e-4; a wrong
# kernel, weight or padding by more than 1e-2. float16 has a mantissa of 10 bits, and errors add up over 80 layers. With
# codes of 8 bits single values are far off, so the rms of all errors of an output counts: up to 0.15 was seen.
LIMITS: Mapping[Precision, float] = {"float32": 1e-3, "float16": 1e-1, "int8": 0.4}
OWN_ERRORS = 10  # times the error of PyTorch in float32 is no fault of a runtime either
OTHER_RUNTIME = "Use another format or another version of the runtime"
NEXT_STEPS: Mapping[Precision, str] = {
    "int8": "Calibrate with more photos like those that the model was trained on, or pass --float16"
}


class Compared(NamedTuple):
    """What was found: {output: error}, {output: limit}, and the rest as in `Checked`."""

    errors: dict[str, float]
    limits: dict[str, float]
    otherwise: int = 0
    margin: float = 0.0
    alike: float | None = None


def wrong_file(engine: FileEngine, reason: str) -> EffdetError:
    """Return the error for a file that does not give what the model does."""
    next_step = NEXT_STEPS.get(engine.interface.precision, OTHER_RUNTIME)
    return EffdetError(f"the exported file is wrong: run by {engine.runtime}, {reason}; nothing was kept. {next_step}")


def network_errors(
    engine: FileEngine, found: Sequence[Array], pixels: Array, model: EfficientDet
) -> tuple[dict[str, float], dict[str, float]]:
    """Compare raw outputs with those in float64."""
    exact = raw_outputs(copy.deepcopy(model).double(), pixels.astype(np.float64))
    names, precision = engine.interface.output_names(engine.config), engine.interface.precision
    measure = rms_error if precision == "int8" else error_of_rms
    errors = [measure(*pair) for pair in zip(found, exact, strict=True)]
    limits = limits_of_rms(raw_outputs(model, pixels), exact, precision)
    return dict(zip(names, errors, strict=True)), dict(zip(names, limits, strict=True))


def limits_of_rms(outputs: Sequence[Array], exact: Sequence[Array], precision: Precision) -> list[float]:
    """Return the limit of every output, of its rms.

    A network that enlarges every rounding is not the runtime's fault: it is given as much as PyTorch itself needs.
    """
    own = [error_of_rms(*pair) for pair in zip(outputs, exact, strict=True)]
    return [max(LIMITS[precision], OWN_ERRORS * error) for error in own]


def raw_outputs(model: EfficientDet, pixels: Array) -> list[Array]:
    """Return what the heads predict, in the order of `Interface.output_names`.

    Raises:
        EffdetError: There is NaN or infinity among them, which no file can be compared with.
    """
    with torch.inference_mode():
        outputs = [tensor.numpy() for tensor in tree_leaves(model(torch.from_numpy(pixels)))]
    if not all(np.isfinite(output).all() for output in outputs):
        raise EffdetError(
            "MODEL itself returns NaN or infinity for noise, so the exported file cannot be checked; nothing was kept. "
            "Look for such values in its weights"
        )
    return outputs


def rms(values: Array) -> float:
    """Return the root mean square of all values."""
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def error_of_rms(found: Array, expected: Array) -> float:
    """Return max |found - expected| / rms(expected); infinite where a shape differs or a value is not finite."""
    if found.shape != expected.shape:
        return float("inf")
    difference = np.abs(found.astype(np.float64) - expected).max()
    error = float(difference / max(rms(expected), 1e-12))
    return error if np.isfinite(error) else float("inf")


def rms_error(found: Array, expected: Array) -> float:
    """Return rms(found - expected) / rms(expected); infinite where a shape differs or a value is not finite."""
    if found.shape != expected.shape:
        return float("inf")
    error = rms(found - expected) / max(rms(expected), 1e-12)
    return error if np.isfinite(error) else float("inf")
