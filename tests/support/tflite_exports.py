"""Graphs and files as effdet-export makes them for TensorFlow Lite, of seeded models and of random weights."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema

from effdet_torch.config import EfficientDetConfig, get_config
from effdet_torch.engines.document import Document, Interface, make_document, plain_profile
from effdet_torch.export.tflite.build.network import build_graph
from effdet_torch.export.tflite.graph import Graph
from effdet_torch.export.tflite.profile import operation_profile
from effdet_torch.file_format import METADATA_KEY
from effdet_torch.network.model import EfficientDet
from effdet_torch.processing.profiles import PROFILES
from support.golden import seeded_view
from support.sources import converted as converted_tensors
from support.sources import plan_of
from support.tflite_files import build, fill, pack
from support.tflite_graphs import listing_of
from support.tflite_samples import LISTINGS, centred_anchors
from support.variable_shapes import random_variables


def write_export(path: Path, config: EfficientDetConfig, detects: bool = False, seed: int = 1, **changes: Any) -> Path:
    """Write a float file of random weights.

    Args:
        path: of the file.
        config: of the network, with the image size.
        detects: whether the detection operation is inside.
        seed: of the weights.
        changes: of the interface in the document, which may then state what the file is not.
    """
    listing = listing_of(config, detects)
    if detects:  # the official signature counts backwards
        numbers = dict(zip(listing.outputs, (3, 2, 1, 0), strict=True))
        listing = replace(listing, named_outputs=[(f"output_{number}", index) for index, number in numbers.items()])
    model = build(listing, fill(listing, random_variables(config, seed=seed), centred_anchors(config)))
    interface = Interface(image_size=config.image_size)
    if detects:
        interface = replace(interface, outputs="detections", profile=plain_profile(PROFILES["tflite"]))
    path.write_bytes(pack(with_document(model, make_document(config, replace(interface, **changes), {}, {}))))
    return path


def with_document(model: schema.ModelT, document: Document) -> schema.ModelT:
    """Add a document to the metadata of a model."""
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(document.to_json().encode(), np.uint8)
    entry.name, entry.buffer = METADATA_KEY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata.append(entry)
    return model


@cache
def model_of(shared: Path, seeded: ModuleType, name: str) -> EfficientDet:
    """The seeded model whose official file a listing describes."""
    variant, side = LISTINGS[name]
    return seeded_model(shared, seeded, get_config(variant, image_size=side))


def seeded_model(shared: Path, seeded: ModuleType, config: EfficientDetConfig) -> EfficientDet:
    """The model of the variables that the golden files were computed on, averages."""
    tensors = converted_tensors(plan_of(config), seeded_view(shared, seeded, config.name, "ema"), dtype="float32")
    model = EfficientDet(config)
    model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in tensors.items()})
    return model.eval()


def graph_of(model: EfficientDet, detects: bool) -> Graph:
    config = model.config
    interface = Interface(image_size=config.image_size)
    if detects:
        profile = plain_profile(operation_profile(config))
        interface = replace(interface, outputs="detections", profile=profile)
    return build_graph(model, config, interface)
