"""One network in all formats that can be converted, for `benchmarks.conversion.sources`."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.project import SHARED
from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from converter.writers.specs import TensorSpec
from converter.writers.targets import TARGETS
from converter.writers.tensorbundle import write_tensorbundle
from verify.reference.base import import_tensorflow
from verify.seeded import write_seeded_checkpoint

Variables = Mapping[str, Any]
REFERENCE = SHARED / "reference"
HUB_HEADS = {"class_net/class-predict": "classes", "box_net/box-predict": "boxes"}


def shared(path: str) -> Path:
    """Return a file or folder of the official results beside the project.

    Raises:
        FileNotFoundError: It is not there.
    """
    found = REFERENCE / path
    if not found.exists():
        raise FileNotFoundError(f"../shared/reference/{path} is missing")
    return found


class Network:
    """A seeded network and the folder with its files.

    Attributes:
        variant: its name.
        folder: where files are written.
        checkpoint: the TF1 checkpoint, with raw values and averages.
    """

    def __init__(self, variant: str, folder: Path) -> None:
        self.variant, self.folder = variant, folder
        self.checkpoint = write_seeded_checkpoint(variant, folder / "tf1").parent

    def converted(self, name: str) -> Path:
        """Write the raw values to a file by this project."""
        with open_checkpoint(self.checkpoint) as source:
            prepared = prepare(source, weights="raw", keep_redundant_bias=True)
            target = None if Path(name).suffix else TARGETS["tf1"]
            convert_checkpoint(prepared, self.folder / name, target=target)
        return self.folder / name

    @cached_property
    def variables(self) -> Variables:
        """{TensorFlow name: raw value}."""
        with open_checkpoint(self.checkpoint) as source:
            return {name: np.array(source.read(name)) for name in prepare(source).plan.variables}


def archive(network: Network) -> Path:
    """Pack the checkpoint."""
    path = network.folder / "model.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        packed.add(network.checkpoint, "model")
    return path


def tf1_saved_model(network: Network) -> Path:
    """Put a checkpoint into the layout of a SavedModel, with an empty graph."""
    folder, v1 = network.folder / "saved_model_1", import_tensorflow().compat.v1
    v1.saved_model.Builder(str(folder)).save(as_text=False)
    shutil.copytree(network.converted("plain"), folder / "variables")
    for suffix in ("index", "data-00000-of-00001"):
        (folder / "variables" / f"model.{suffix}").rename(folder / "variables" / f"variables.{suffix}")
    return folder


def object_checkpoint(network: Network) -> Path:
    """Write a TF2 checkpoint."""
    tf, path = import_tensorflow(), network.folder / "object"
    tf.train.Checkpoint(model=_module(network.variables)).write(str(path))
    return path


def tf2_saved_model(network: Network) -> Path:
    """Write a TF2 SavedModel without functions."""
    path = network.folder / "saved_model_2"
    import_tensorflow().saved_model.save(_module(network.variables), str(path))
    return path


def frozen_graph(network: Network) -> Path:
    """Write a graph that is nothing but constants."""
    tf, path = import_tensorflow(), network.folder / "frozen.pb"
    with tf.Graph().as_default() as graph:
        for name, value in network.variables.items():
            tf.constant(value, name=name)
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path


def hub_module(network: Network) -> Path:
    """Write the SavedModel of a TF-Hub feature vector."""
    path = network.folder / "module"
    import_tensorflow().saved_model.save(_module(_body(network.variables)), str(path))
    return path


def hub_training(network: Network) -> Path:
    """Write the checkpoint of a training on a feature vector; its module has the variables as attributes."""
    tf, path = import_tensorflow(), network.folder / "hub_training" / "ckpt-1"
    parts = {"base_model": tf.Module(), **{attribute: tf.Module() for attribute in HUB_HEADS.values()}}
    for name, value in network.variables.items():
        scope, _, leaf = name.rpartition("/")
        owner, attribute = (HUB_HEADS[scope], leaf) if scope in HUB_HEADS else ("base_model", f"{name}:0")
        parts[owner]._track_trackable(tf.Variable(value, name=name), attribute)
    tf.train.Checkpoint(**parts).write(str(path))
    return path


def with_segmentation(network: Network) -> Path:
    """Write a checkpoint with the variables of a segmentation head beside the detector's."""
    rows = [line.split("\t") for line in shared("sources/segmentation/d0_seg_variables.tsv").read_text().splitlines()]
    shapes = {
        name: tuple(int(size) for size in text.strip("[]()").split(",") if size.strip()) for name, text, *_ in rows
    }
    rng = np.random.default_rng(0)
    values = {name: np.abs(rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    path = network.folder / "segmentation"
    path.mkdir()
    specs = {name: TensorSpec(np.dtype(np.float32), value.shape) for name, value in values.items()}
    write_tensorbundle(path / "model", specs, values.items())
    return path


def _body(variables: Variables) -> Variables:
    return {name: value for name, value in variables.items() if name.rpartition("/")[0] not in HUB_HEADS}


def _module(variables: Variables) -> Any:
    tf = import_tensorflow()
    module = tf.Module()
    module.all = [tf.Variable(value, name=name) for name, value in variables.items()]
    return module
