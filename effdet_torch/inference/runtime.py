"""What runs a network: the interface of engines, and the choice of one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from effdet_torch.checks import require_type
from effdet_torch.config import EfficientDetConfig
from effdet_torch.engines.checksum import require_intact
from effdet_torch.engines.table import is_exported, open_engine
from effdet_torch.errors import UsageError
from effdet_torch.hugging_face import local_file
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

    def __call__(self, pixels: Any, /) -> Any:
        """Return what the network does, see `EfficientDet.forward`, for pixels (B, 3, H, W) float32.

        On the CPU the input is an array, and the results are arrays or tensors; on a GPU all are tensors there.
        """


def make_engine(
    model: Any,
    *,
    device: torch.device | str | None = None,
    rank: int | None = None,
    check_values: bool = False,
    precision: Precision = "model",
    fused: bool = True,
    compiled: bool = False,
    backend: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> Engine:
    """Return the engine that was passed, or one that runs a model or its file; see `Predictor`.

    Raises:
        UsageError: `model` is none of these, or is an engine and an option says how it should run.
        ConfigError: The device cannot be used.
        ModelFileError: The model file cannot be read.
    """
    computing = {
        "precision": None if precision == "model" else precision,
        "fused": None if fused else fused,
        "compiled": compiled or None,
    }
    if isinstance(model, Engine):
        options = {"device": device, "rank": rank, "check_values": check_values or None, **computing}
        _refuse({**options, "backend": backend}, "an engine has its own device and precision")
        return model
    if isinstance(model, (str, os.PathLike)):
        model = local_file(model)
    if isinstance(model, Path) and (backend is not None or is_exported(model)):
        options = {"device (--device)": None if str(device) == "cpu" else device, **computing}
        _refuse(options, f"{backend or model} runs on the CPU, in the precision of effdet-export --precision")
        return _file_engine(model, backend, image_size, check_values)
    if backend is not None:
        raise UsageError(f"backend {backend} needs a converted file, which is exported once; pass its path")
    from effdet_torch.engines.torch_engine import TorchEngine, default_device, usable_device
    from effdet_torch.network.checkpoint import load_model
    from effdet_torch.network.model import EfficientDet

    require_type(model, (EfficientDet, str, os.PathLike), "model", "a converted file, an EfficientDet or an engine")
    if device is None:
        device = next(model.parameters()).device if isinstance(model, EfficientDet) else default_device()
    device = usable_device(device, rank)
    network = model if isinstance(model, EfficientDet) else load_model(model, check_values=check_values)
    return TorchEngine(network, device, precision=precision, fused=fused, compiled=compiled)


def _file_engine(path: Path, backend: str | None, image_size: tuple[int, int] | None, check_values: bool) -> Engine:
    """Return the engine of an exported file, or of a converted one that is exported for a backend."""
    if backend is None:
        if check_values:
            require_intact(path)
        return open_engine(path)
    if is_exported(path):
        raise UsageError(f"{path} is exported already, and its suffix says for what; leave out backend {backend}")
    from effdet_torch.export.cache import cached_engine

    return cached_engine(path, backend, image_size, check_values)


def _refuse(options: Mapping[str, Any], reason: str) -> None:
    if given := [name for name, value in options.items() if value is not None]:
        raise UsageError(f"{reason}; leave out {', '.join(given)}")
