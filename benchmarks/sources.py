"""Whole-process time of converting every kind of source, compared with the TF1 checkpoint of the same network.

    python -m benchmarks.sources [--repeats 7] [--variant d0]

The sources are written from one seeded checkpoint, by TensorFlow, or by this project where that is possible.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conversion import measure_in_turns
from converter.conversion import convert_checkpoint, prepare
from converter.locate import open_checkpoint
from converter.writers.targets import TARGETS
from verify.reference.base import import_tensorflow
from verify.seeded import write_seeded_checkpoint

BASELINE = "TF1 checkpoint"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--variant", default="d0")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources = write_sources(options.variant, Path(folder))
        tool = str(Path(sys.executable).parent / "effdet-convert")
        out = [str(Path(folder) / "out.pth"), "--weights", "raw"]
        costs = measure_in_turns({name: [tool, str(path), *out] for name, path in sources.items()}, options.repeats)
    print(f"{options.variant:<26}{'seconds':>9}{'ratio':>8}{'peak MB':>9}")
    for name, (seconds, peak) in costs.items():
        print(f"{name:<26}{seconds:>9.2f}{seconds / costs[BASELINE].seconds:>8.2f}{peak:>9.0f}")


def write_sources(variant: str, folder: Path) -> Mapping[str, Path]:
    """Write one network in all formats, and return {kind: path}."""
    checkpoint = write_seeded_checkpoint(variant, folder / "tf1").parent
    with open_checkpoint(checkpoint) as source:
        prepared = prepare(source, weights="raw", keep_redundant_bias=True)
        for name in ("model.pth", "model.safetensors", "model.h5"):
            convert_checkpoint(prepared, folder / name)
        variables = {name: np.array(source.read(name)) for name in prepared.plan.variables}
        convert_checkpoint(prepared, folder / "plain", target=TARGETS["tf1"])
    with tarfile.open(folder / "model.tar.gz", "w:gz") as archive:
        archive.add(checkpoint, "model")
    return {
        BASELINE: checkpoint,
        "archive of it (.tar.gz)": folder / "model.tar.gz",
        "Keras .h5": folder / "model.h5",
        "PyTorch .pth": folder / "model.pth",
        "PyTorch .safetensors": folder / "model.safetensors",
        **write_by_tensorflow(variables, folder),
    }


def write_by_tensorflow(variables: Mapping[str, Any], folder: Path) -> Mapping[str, Path]:
    """Write the formats of TF2, and those with graphs."""
    tf = import_tensorflow()
    module = tf.Module()
    module.all = [tf.Variable(value, name=name) for name, value in variables.items()]
    tf.train.Checkpoint(model=module).write(str(folder / "object"))
    tf.saved_model.save(module, str(folder / "saved_model_2"))
    graph = tf.Graph()
    with graph.as_default():
        for name, value in variables.items():
            tf.constant(value, name=name)
    (folder / "frozen.pb").write_bytes(graph.as_graph_def().SerializeToString())
    saved_model = folder / "saved_model_1"
    shutil.copytree(folder / "plain", saved_model / "variables")
    for suffix in ("index", "data-00000-of-00001"):
        (saved_model / "variables" / f"model.{suffix}").rename(saved_model / "variables" / f"variables.{suffix}")
    tf.compat.v1.saved_model.Builder(str(folder / "empty")).save(as_text=False)
    shutil.copy(folder / "empty" / "saved_model.pb", saved_model)
    return {
        "TF2 object checkpoint": folder / "object",
        "TF1 SavedModel": saved_model,
        "TF2 SavedModel": folder / "saved_model_2",
        "frozen graph (.pb)": folder / "frozen.pb",
    }


if __name__ == "__main__":
    main()
