"""Write Keras weights in HDF5, as `save_weights("model.h5")` of the official model does.

Keras loads such a file by order, not by name: layers in the order of the model, and in each layer the trainable
variables before the others. Within these, variables are in the order in which the official code creates them.

Source: Keras 2, `hdf5_format.save_weights_to_hdf5_group`; the files of the official model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

import h5py
import numpy as np
from crc32c import crc32c

from converter.plan.expand import Entry, Plan
from converter.plan.ops import Array
from converter.writers.specs import TensorSpec, raw_bytes
from effdet_torch.file_format import CHECKSUMS_KEY, METADATA_KEY

ATTRIBUTE_BYTES = 64512  # an HDF5 attribute must fit into an object header of 64 kB; longer lists are split
NOT_TRAINED = ("moving_mean", "moving_variance")
OUTPUT = ":0"  # the suffix of a variable's name: the first output of its operation


def keras_layers(plan: Plan) -> dict[str, list[str]]:
    """Return {layer of the Keras model: its variables}, both in the order of the official model."""
    layers: dict[str, list[str]] = {layer.tf.split("/")[0]: [] for layer in plan.layers}
    for entry in sorted(plan.entries, key=_creation):
        for name in entry.sources:
            layers[name.split("/")[0]].append(name)
    return {layer: sorted(names, key=lambda name: name.endswith(NOT_TRAINED)) for layer, names in layers.items()}


def _creation(entry: Entry) -> tuple[bool, int, int]:
    """Return a sort key for the order of creation: blocks before the stem, cell by cell and node by node."""
    indices = entry.layer.indices
    return "flat" not in indices, indices.get("cell", 0), indices.get("node", 0)


def write_keras_h5(
    stream: IO[bytes],
    layers: Mapping[str, Sequence[str]],
    specs: Mapping[str, TensorSpec],
    tensors: Iterable[tuple[str, Array]],
    metadata: Mapping[str, Any] | None,
) -> None:
    """Write variables by layer, in the order in which Keras loads them.

    Metadata, as JSON, and checksums are attributes, which Keras ignores.
    """
    checksums = dict[str, int]()
    with h5py.File(stream, "w") as file:
        file.attrs["backend"], file.attrs["keras_version"] = "tensorflow", "2.15.0"
        if metadata is not None:
            text = json.dumps(metadata)
            file.attrs[METADATA_KEY] = text
            file.attrs[CHECKSUMS_KEY] = np.array([crc32c(text.encode())], "<u4")
        _write_names(file, "layer_names", list(layers))
        for layer, names in layers.items():
            group = file.create_group(layer)
            _write_names(group, "weight_names", [f"{name}{OUTPUT}" for name in names])
            for name in names:
                group.create_dataset(f"{name}{OUTPUT}", specs[name].shape, specs[name].dtype)
        for name, array in tensors:
            file[name.split("/")[0]][f"{name}{OUTPUT}"][...] = array
            checksums[name] = crc32c(raw_bytes(array, specs[name]))
        for layer, names in layers.items():
            file[layer].attrs[CHECKSUMS_KEY] = np.array([checksums[name] for name in names], "<u4")


def _write_names(group: Any, attribute: str, names: list[str]) -> None:
    """Write a list of names, split into several numbered attributes if one would be too large."""
    encoded = np.array([name.encode() for name in names], dtype="S") if names else np.zeros(0)
    parts = max(1, -(-encoded.nbytes // ATTRIBUTE_BYTES))
    for number, part in enumerate(np.array_split(encoded, parts)):
        group.attrs[attribute if parts == 1 else f"{attribute}{number}"] = part
