"""Files of TF Hub, written again: of the official ones beside the project, only the indexes are at hand."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from converter.formats.leveldb_table import extend_crc32c
from converter.formats.trackable import VALUE, local_name
from converter.readers.tensorflow.tensorbundle import OBJECT_GRAPH, TensorBundle
from support.sources import Array
from support.tiny_protos import ObjectGraph

HEADS = {"classes": "class_net/class-predict", "boxes": "box_net/box-predict"}
Draw = Callable[..., dict[str, Array]]


def hub_folder(shared: Path) -> Path:
    """Return the folder of the indexes, or skip the test."""
    folder = shared / "reference" / "sources" / "hub"
    if not folder.is_dir():
        pytest.skip("no official checkpoint of hub training (../shared/reference/sources/hub)")
    return folder


def load_draw(hub: Path, seeded: ModuleType) -> Draw:
    """Return the function that draws the values, which the checksums in the indexes confirm."""
    sys.modules.setdefault("seeded_variables", seeded)
    spec = importlib.util.spec_from_file_location("seeded_extra", hub.parent / "seeded_extra.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Draw = module.draw
    return found


def official_name(path: str) -> str:
    """Written from the facts about these keys."""
    head, _, leaf = path.rpartition("/")
    return f"{HEADS[head]}/{leaf}" if head in HEADS else local_name(path).removesuffix(":0")


def write_training(hub: Path, folder: Path, draw: Draw, view: str = "ema") -> Path:
    """Write the checkpoint of a training on a module, with the official values if the view is "ema"."""
    graph = _graph(hub / "run_ckpt-1", draw, view, lambda name: f"some_module/{name.rsplit('/', 1)[1]}")
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_bytes((hub / "run_config.yaml").read_bytes())
    return graph.write(folder / "ckpt-1")


def write_module(hub: Path, folder: Path, draw: Draw, has_names: bool = True) -> Path:
    """Write the SavedModel of the module itself, with or without the full names in its object graph."""
    graph = _graph(hub / "module_variables", draw, "ema", lambda name: name if has_names else "")
    folder.mkdir(exist_ok=True)
    (folder / "saved_model.pb").write_bytes(b"\x08\x01\x12\x00")
    graph.write(folder / "variables" / "variables")
    return folder


def _graph(prefix: Path, draw: Draw, view: str, full_name: Callable[[str], str]) -> ObjectGraph:
    graph = ObjectGraph()
    with TensorBundle(prefix) as index:
        keys = {official_name(key.removesuffix(VALUE)): key for key in index.variables if key != OBJECT_GRAPH}
        values = draw({name: index.variables[key].shape for name, key in keys.items()}, view=view)
        for name, key in keys.items():
            assert (index.checksum(key) == extend_crc32c(0, values[name].tobytes())) is (view == "ema")
            graph.add(key.removesuffix(VALUE), full_name(name), values[name])
    return graph
