"""Whole models and weights of any network as Keras 2 and Keras 3 write them: every array, with the values of h5py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from converter.locate import open_checkpoint


def nested(keras: Any) -> Any:
    """Build a model that holds two models with the same names of layers."""
    start = keras.Input((4,))
    values = start
    for name in ("one", "two"):
        layers = [keras.layers.Dense(4, name="dense"), keras.layers.BatchNormalization(name="norm")]
        values = keras.Sequential(layers, name=name)(values)
    return keras.Model(start, keras.layers.Dense(2, name="last")(values))


@pytest.mark.filterwarnings("ignore")  # of Keras 3 itself; and of Keras 2, that the file format is old
@pytest.mark.parametrize(("library", "method"), [("tf_keras", "save"), ("tf_keras", "save_weights"), ("keras", "save")])
def test_all_arrays_are_found(tmp_path: Path, library: str, method: str) -> None:
    keras, path = pytest.importorskip(library), tmp_path / "m.h5"
    getattr(nested(keras), method)(str(path))
    expected: list[tuple[str, bytes]] = []
    with h5py.File(path) as file:
        file.visititems(
            lambda _, item: expected.append((item.name, item[()].tobytes())) if hasattr(item, "shape") else None
        )
    with open_checkpoint(path) as source:
        found = {name: np.asarray(source.read(name)).tobytes() for name in source.variables}
    assert sorted(found.values()) == sorted(values for _, values in expected)
    assert len(found) == 14
    assert "last/kernel" in found
    assert {name.split("/")[0] for name in found} == {"one", "two", "last"}
