"""What runs a network: the interface of engines, and the choice of one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from effdet_torch.checks import require_type
from effdet_torch.config import EfficientDetConfig
from effdet_torch.errors import UsageError
from effdet_torch.optimize.precision import Precision

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Engine(Protocol):
    """Whatever runs a network.

    Attributes:
        config: of the network.
        metadata: where its weights came from.
        device: its name, or an object whose text is the name: "cpu", "cuda:1", ...
    """

    @property
    def config(self) -> EfficientDetConfig: ...  # noqa: D102

    @property
    def metadata(self) -> Mapping[str, Any]: ...  # noqa: D102

    @property
    def device(self) -> Any: ...  # noqa: D102

    def __call__(self, pixels: Any, /) -> tuple[Sequence[Any], Sequence[Any]]:
        """Return class logits and box deltas per level, see `EfficientDet.forward`, for pixels (B, 3, H, W) float32.

        On the CPU the input is an array, and the results are arrays or tensors; on a GPU all are tensors there.
        """


def make_engine(
    model: Any,
    *,
    device: torch.device | str | None,
    rank: int | None,
    check_values: bool,
    precision: Precision,
    fused: bool,
    compiled: bool,
) -> Engine:
    """Return the engine that was passed, or one that runs a model or its file in PyTorch; see `Predictor`.

    Raises:
        UsageError: `model` is none of these, or is an engine and an option says how it should run.
        ConfigError: The device cannot be used.
        ModelFileError: The model file cannot be read.
    """
    if isinstance(model, Engine):
        options = {"device": device, "rank": rank, "check_values": check_values or None, "compiled": compiled or None}
        options |= {"precision": None if precision == "model" else precision, "fused": None if fused else fused}
        if given := [name for name, value in options.items() if value is not None]:
            raise UsageError(f"an engine has its own device and precision; leave out {', '.join(given)}")
        return model
    from effdet_torch.inference.engine import TorchEngine, default_device, usable_device
    from effdet_torch.network.checkpoint import load_model
    from effdet_torch.network.model import EfficientDet

    require_type(model, (EfficientDet, str, os.PathLike), "model", "a converted file, an EfficientDet or an engine")
    if device is None:
        device = next(model.parameters()).device if isinstance(model, EfficientDet) else default_device()
    device = usable_device(device, rank)
    network = model if isinstance(model, EfficientDet) else load_model(model, check_values=check_values)
    return TorchEngine(network, device, precision=precision, fused=fused, compiled=compiled)
