"""What all runtimes of exported files share: sizes that fit, batches that the file takes, outputs that make sense."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig
from effdet_torch.engines.document import EXPORT_AGAIN, Document, by_head, profile_from
from effdet_torch.errors import ConfigError, EffdetError, ModelFileError, install_command
from effdet_torch.untrusted.files import reason_of

Array = NDArray[Any]


class FileEngine(ABC):
    """An exported file and the runtime that runs it, on the CPU.

    Attributes:
        path: of the file.
        document: what it takes and returns.
        config: of the model, with the image size of the file.
        interface: of the file.
        metadata: the whole document.
        profile: of the detections that come out; None: raw outputs do.
        runtime: name and version of what runs it.
        device: where it runs.
    """

    runtime: str
    device = "cpu"

    def __init__(self, path: Path, document: Document) -> None:
        self.path, self.document = path, document
        self.config, self.interface, self.metadata = document.config, document.interface, document.metadata
        self.profile = profile_from(self.interface.profile) if self.interface.outputs == "detections" else None
        self._names = self.interface.output_names(self.config)

    def __call__(self, pixels: Array) -> Any:
        """Return what the network does, see `EfficientDet.forward`, for pixels (B, 3, H, W) float32.

        Detections are ([boxes, scores], [classes, count]).
        """
        outputs = self.run(pixels)
        return by_head(outputs, self.config) if self.profile is None else (outputs[:2], outputs[2:])

    def run(self, pixels: Array) -> list[Array]:
        """Return the outputs of the file, in its order, for a batch.

        Args:
            pixels: (B, 3, H, W) float32, normalised. A file that takes one batch size gets as many at a time.

        Raises:
            ConfigError: The file takes another image size.
            EffdetError: The runtime fails.
        """
        self.require_size(pixels.shape[2], pixels.shape[3])
        size = self.interface.batch or len(pixels)
        parts = [self._padded(pixels[start : start + size], size) for start in range(0, len(pixels), size)]
        found = [self._checked(self._run(self._as_input(part))) for part in parts]
        return [np.concatenate(arrays)[: len(pixels)] for arrays in zip(*found, strict=True)]

    def require_size(self, height: int, width: int) -> None:
        """Refuse a size of the network input that the file does not take.

        Raises:
            ConfigError: It takes another one.
        """
        size = self.interface.image_size
        if size not in (None, (height, width)):
            assert size is not None
            raise ConfigError(
                f"{self.path} takes images of {size[1]} x {size[0]} pixels, not {width} x {height}; export it again "
                "with --image-size"
            )

    @abstractmethod
    def _run(self, pixels: Array) -> Iterable[Array]:
        """Return the outputs for an input that the file takes."""

    def _as_input(self, pixels: Array) -> Array:
        """Return normalised pixels (B, 3, H, W) as the file takes them; bytes (B, H, W, 3) are rounded."""
        if self.interface.pixels == "normalized":
            return np.ascontiguousarray(pixels, np.float32)
        return to_bytes(pixels, self.config)

    def _checked(self, outputs: Iterable[Array]) -> list[Array]:
        arrays = [np.asarray(array) for array in outputs]
        if len(arrays) != len(self._names):
            raise ModelFileError(
                f"{self.path} returned {len(arrays)} outputs; expected {len(self._names)} ({', '.join(self._names)}). "
                f"{EXPORT_AGAIN}"
            )
        return arrays

    @staticmethod
    def _padded(pixels: Array, size: int) -> Array:
        """Fill a batch up to the size that the file takes, with copies of its last image."""
        missing = size - len(pixels)
        return pixels if missing == 0 else np.concatenate([pixels, np.repeat(pixels[-1:], missing, axis=0)])


def to_bytes(pixels: Array, config: EfficientDetConfig) -> Array:
    """Undo the normalisation of pixels (B, 3, H, W) float32 and round: (B, H, W, 3) uint8."""
    if config.normalization != "mean_std":
        pixels = (pixels + 1) * (255 / 2)
    if config.normalization != "advprop":
        mean, std = (np.array(rgb, np.float32)[:, None, None] for rgb in (config.mean_rgb, config.std_rgb))
        pixels = pixels * std + mean
    return np.ascontiguousarray(pixels.round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what exporters and runtimes warn about and log: deprecations, and steps of their own."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def missing_runtime(path: Path, package: str, extra: str) -> EffdetError:
    """Return the error for a file whose runtime is not installed."""
    return EffdetError(f"{path} needs {package}, which is not installed; {install_command(extra)}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file in what the system says.

    Raises:
        ModelFileError: It cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise ModelFileError(f"cannot read the model file {path}: {reason_of(error)}.") from error


@contextmanager
def running(path: Path, runtime: str) -> Iterator[None]:
    """Name the file in what its runtime raises: each has kinds of its own, below Exception only.

    Raises:
        ModelFileError: The runtime refuses the file, or fails.
    """
    try:
        yield
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelFileError(f"{path} cannot be run by {runtime}: {reason.rstrip('.')}. {EXPORT_AGAIN}") from error


def require_signature(path: Path, kind: str, found: Sequence[str], expected: Sequence[str]) -> None:
    """Refuse a file whose inputs or outputs are not those that its document states.

    Raises:
        ModelFileError: The names differ.
    """
    if list(found) != list(expected):
        raise ModelFileError(
            f"the {kind} of {path} are {', '.join(found) or 'none'}; expected {', '.join(expected)}. {EXPORT_AGAIN}"
        )
