from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.engines.document import Interface, make_document
from effdet_torch.engines.file_engine import FileEngine, to_bytes
from effdet_torch.errors import ConfigError, ModelFileError
from effdet_torch.export.detector import Normalization

CONFIG = get_config("d0", image_size=(96, 160))


class Echo(FileEngine):
    """Returns the mean of every image, once for every output; remembers what it was given."""

    def __init__(self, config: EfficientDetConfig = CONFIG, outputs: int = 10, **interface: Any) -> None:
        super().__init__(Path("d0.onnx"), make_document(config, Interface(**interface), {}, {}))
        self.given: list[NDArray[Any]] = []
        self.outputs = outputs

    def _run(self, pixels: NDArray[Any]) -> Iterable[NDArray[Any]]:
        self.given.append(pixels)
        return [pixels.mean(axis=(1, 2, 3))] * self.outputs


def images(batch: int, size: tuple[int, int] = (96, 160)) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((batch, 3, *size), np.float32)


@pytest.mark.parametrize(("batch", "parts"), [(1, [1, 1, 1]), (2, [2, 2]), (3, [3]), (4, [4]), (None, [3])])
def test_a_batch_is_cut_or_filled_to_what_the_file_takes(batch: int | None, parts: list[int]) -> None:
    engine, pixels = Echo(batch=batch), images(3)
    class_logits, box_deltas = engine(pixels)
    assert [len(part) for part in engine.given] == parts
    assert (len(class_logits), len(box_deltas)) == (5, 5)
    assert np.array_equal(box_deltas[4], pixels.mean(axis=(1, 2, 3)))


def test_another_image_size_is_refused_where_the_file_has_one() -> None:
    engine = Echo(image_size=(96, 160))
    engine(images(1))
    with pytest.raises(ConfigError, match=r"d0\.onnx takes images of 160 x 96 pixels, not 64 x 64; export it again"):
        engine(images(1, (64, 64)))
    Echo(image_size=None)(images(1, (64, 64)))


def test_another_number_of_outputs_is_refused() -> None:
    with pytest.raises(ModelFileError, match="returned 9 outputs; expected 10"):
        Echo(outputs=9)(images(1))


@pytest.mark.parametrize("normalization", ["mean_std", "scale_range", "advprop"])
def test_bytes_are_the_pixels_before_they_were_normalised(normalization: str) -> None:
    torch = pytest.importorskip("torch")
    config = get_config("d0", image_size=(96, 160), normalization=normalization)
    original = np.random.default_rng(1).integers(0, 256, (2, 96, 160, 3), np.uint8)
    normalized = Normalization(config)(torch.from_numpy(original)).numpy()
    assert np.array_equal(to_bytes(normalized, config), original)
    engine = Echo(config, pixels="uint8", batch=None)
    engine(normalized)
    assert np.array_equal(engine.given[0], original)
    assert not np.array_equal(to_bytes(normalized, get_config("lite0")), original)  # negative control: other colours
