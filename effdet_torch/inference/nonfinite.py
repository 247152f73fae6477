"""Why a network returned NaN or infinity, in words; looked for once it has happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from effdet_torch.engines.document import DETECTIONS, Interface
from effdet_torch.engines.file_engine import FileEngine
from effdet_torch.errors import NonFiniteOutputError, listed
from effdet_torch.processing.cpu import as_float32
from effdet_torch.values import described

if TYPE_CHECKING:
    import torch

    from effdet_torch.engines.torch_engine import TorchEngine
    from effdet_torch.inference.runtime import Engine
    from effdet_torch.network.model import EfficientDet

FLOAT16 = "float16, whose largest number is 65504"


def explained(error: NonFiniteOutputError, outputs: Mapping[str, Any], engine: Engine) -> NonFiniteOutputError:
    """Return the error with what was found, where, and what to do.

    Args:
        error: about an image of a batch.
        outputs: {name: (B, ...)} of the batch, arrays or tensors.
        engine: that gave them.
    """
    arrays = {name: as_float32(array[error.place : error.place + 1]) for name, array in outputs.items()}
    counts = {name: np.count_nonzero(~np.isfinite(array)) for name, array in arrays.items()}
    parts = [f"{name} {count} of {arrays[name].size} values" for name, count in counts.items() if count]
    return NonFiniteOutputError(error.place, f"{error.cause} ({listed(parts)}); {_advice(engine)}")


def by_name(class_logits: Sequence[Any], box_deltas: Sequence[Any], engine: Engine) -> dict[str, Any]:
    """Return what the heads of an engine returned by the names that the outputs have in an exported file."""
    is_inside = isinstance(engine, FileEngine) and engine.profile is not None
    names = DETECTIONS if is_inside else Interface().output_names(engine.config)
    return dict(zip(names, [*class_logits, *box_deltas], strict=False))  # the last may be of a segmentation head


def _advice(engine: Engine) -> str:
    if isinstance(engine, FileEngine):
        if engine.interface.precision == "float16":
            return f"{engine.path} holds {FLOAT16}: export the model again with --precision float32"
        return (
            f"{engine.path} may be damaged: compare it with the converted file (effdet-verify {engine.path} "
            "--reference MODEL), or export the model again"
        )
    if not hasattr(engine, "model"):
        return "look at what runs the network"
    engine = cast("TorchEngine", engine)
    return cause_in(engine.model, engine.dtype)


def cause_in(model: EfficientDet, dtype: torch.dtype) -> str:
    """Return why a model may give NaN or infinity, and what to do.

    Args:
        model: the network.
        dtype: in which it computes.
    """
    from effdet_torch.network.checkpoint import value_faults  # late: imports torch

    if faults := value_faults(model.state_dict()):
        return f"the model holds {described(faults)}: use an earlier checkpoint of its training"
    if str(dtype) == "torch.float16":
        return f'it computes in {FLOAT16}: pass precision="float32", and a model in float32'
    return (
        "all its weights are finite, so values grow without end on the way: compare the model with its TensorFlow "
        "checkpoint by effdet-verify, or use an earlier checkpoint of its training"
    )
