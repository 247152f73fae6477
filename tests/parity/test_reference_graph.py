"""TensorFlow's own graph as a reference, in every form in which it is stored, against the built-in one."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converter.conversion import Preparation, prepare
from converter.hparams.fields import hparams_of
from converter.locate import open_checkpoint
from converter.plan.copies import ViewName
from effdet_torch.config import EfficientDetConfig
from support.golden import error_over_rms
from support.graphs import edit_graph, write_meta, write_tf1_exports, write_tf2_export
from support.quick import mostly_slow
from support.sources import small_config
from support.tolerances import FLOAT32_RANDOM_INPUT
from support.variable_shapes import random_variables
from verify.errors import GraphError, InputSizeError, ParityError
from verify.reference.base import HeadOutputs, import_tensorflow
from verify.reference.graph import GraphReference
from verify.reference.graph_network import Outline
from verify.subjects.graphs import find_graph, graph_reference
from verify.subjects.references import build_reference

CONFIG = small_config(image_size=(64, 96), head_repeats=2)
PLAIN = replace(CONFIG, activation="relu6")  # TensorFlow's swish has a constant `beta` that a frozen graph keeps
RAW, EMA = random_variables(CONFIG, seed=1), random_variables(CONFIG, seed=2)


def _second_model(name: str) -> str:
    """Return the name of a variable in the second model of a process that Keras built."""
    return name.replace("/stem/conv2d/", "/stem_1/conv2d_1/").replace("/stem/", "/stem_1/")


@dataclass(frozen=True)
class Form:
    """How to write a checkpoint with its graph into a folder, and the names of both files."""

    write: Callable[[Path], Any]
    source: str
    graph: str
    kind: str
    config: EfficientDetConfig = CONFIG


FORMS = {
    "meta": Form(
        lambda folder: write_meta(folder / "model", CONFIG, RAW, EMA), "model", "model.meta", "TF1 checkpoint"
    ),
    "meta of TF1 variables": Form(
        lambda folder: write_meta(folder / "model", CONFIG, RAW, EMA, resource=False),
        "model",
        "model.meta",
        "TF1 checkpoint",
    ),
    "TF1 SavedModel": Form(
        lambda folder: write_tf1_exports(folder / "export", CONFIG, RAW), "export", "saved_model.pb", "TF1 SavedModel"
    ),
    "TF2 SavedModel": Form(
        lambda folder: write_tf2_export(folder / "export", CONFIG, RAW), "export", "saved_model.pb", "TF2 SavedModel"
    ),
    "TF2 SavedModel of a second model": Form(
        lambda folder: write_tf2_export(folder / "export", CONFIG, RAW, named=_second_model),
        "export",
        "saved_model.pb",
        "TF2 SavedModel",
    ),
    "frozen graph": Form(
        lambda folder: write_tf1_exports(folder / "export", PLAIN, RAW),
        "export/efficientdet_frozen.pb",
        "efficientdet_frozen.pb",
        "frozen graph",
        PLAIN,
    ),
}


@contextmanager
def prepared(path: Path, config: EfficientDetConfig = CONFIG, view: ViewName | None = None) -> Iterator[Preparation]:
    with open_checkpoint(path) as source:
        yield prepare(source, weights=view, hparams=hparams_of(config))


def errors(found: HeadOutputs, expected: HeadOutputs) -> list[float]:
    assert list(found.class_logits) == list(found.box_deltas) == list(CONFIG.levels)
    heads = (found.class_logits, expected.class_logits), (found.box_deltas, expected.box_deltas)
    return [error_over_rms(one[level], other[level]) for one, other in heads for level in CONFIG.levels]


@pytest.fixture
def images() -> NDArray[Any]:
    return np.random.default_rng(0).normal(size=(1, 64, 96, 3)).astype(np.float32)


@pytest.mark.parametrize("name", mostly_slow(FORMS, ("meta", "TF2 SavedModel")))
def test_equals_built_in_reference(name: str, images: NDArray[Any], tmp_path: Path) -> None:
    form = FORMS[name]
    form.write(tmp_path)
    with prepared(tmp_path / form.source, form.config) as preparation:
        path = find_graph(preparation)
        assert path is not None
        assert (preparation.source.kind, path.name) == (form.kind, form.graph)
        graph = graph_reference(path, preparation)
        expected = build_reference(preparation, "float32").outputs(images)
    assert max(errors(graph.outputs(images), expected)) <= FLOAT32_RANDOM_INPUT
    assert (graph.image_size, graph.notes) == ((64, 96), ())
    assert graph.describe()["name"] == f"TensorFlow's own graph ({form.graph})"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix of a checkpoint with a `.meta`."""
    return write_meta(tmp_path_factory.mktemp("meta") / "model", CONFIG, RAW, EMA)


def graph_of(checkpoint: Path, meta: Path | None = None, **changes: Any) -> GraphReference:
    outline = replace(Outline(CONFIG.backbone, tuple(CONFIG.levels), CONFIG.image_size), **changes)
    return GraphReference(meta or Path(f"{checkpoint}.meta"), outline, EMA)


def test_other_view_shows(checkpoint: Path, images: NDArray[Any]) -> None:
    """Negative control."""
    with prepared(checkpoint, view="raw") as preparation:
        raw = build_reference(preparation, "float32").outputs(images)
    assert min(errors(graph_of(checkpoint).outputs(images), raw)) > 1e-2


def test_other_image_size_is_refused(checkpoint: Path) -> None:
    with pytest.raises(InputSizeError, match=r"\(1, 64, 64, 3\); model.meta was built for \(1, 64, 96, 3\)"):
        graph_of(checkpoint).run(np.zeros((1, 64, 64, 3), np.float32))


@pytest.mark.parametrize(
    ("shape", "size", "notes"),
    [
        ((None, None, None, 3), (64, 96), ["The graph does not say its image size; it was run at the file's, 96x64."]),
        ((2, 64, 96, 3), (64, 96), []),
        ((1, 128, 64, 3), (128, 64), ["The graph was built for 64x128 pixels (width x height), the file for 96x64."]),
    ],
)
def test_the_image_size_of_a_graph(
    shape: tuple[int | None, ...], size: tuple[int, int], notes: list[str], checkpoint: Path, tmp_path: Path
) -> None:
    def reshape(graph_def: Any) -> None:
        node = next(node for node in graph_def.node if node.name == "input")
        node.attr["shape"].shape.CopyFrom(import_tensorflow().TensorShape(shape).as_proto())
        for other in graph_def.node:
            other.attr.pop("_output_shapes", None)

    graph = graph_of(checkpoint, edit_graph(Path(f"{checkpoint}.meta"), tmp_path / "model.meta", reshape))
    assert (graph.image_size, list(graph.notes)) == (size, notes)


@pytest.mark.parametrize("batch", [None, 2])
def test_a_graph_for_any_number_of_images(
    batch: int | None, checkpoint: Path, images: NDArray[Any], tmp_path: Path
) -> None:
    def reshape(graph_def: Any) -> None:
        node = next(node for node in graph_def.node if node.name == "input")
        node.attr["shape"].shape.CopyFrom(import_tensorflow().TensorShape((batch, 64, 96, 3)).as_proto())

    graph = graph_of(checkpoint, edit_graph(Path(f"{checkpoint}.meta"), tmp_path / "model.meta", reshape))
    found, expected = graph.outputs(images), graph_of(checkpoint).outputs(images)
    assert found.class_logits[3].shape == expected.class_logits[3].shape
    assert max(errors(found, expected)) <= FLOAT32_RANDOM_INPUT


def _first(graph_def: Any, op: str) -> Any:
    return next(node for node in graph_def.node if node.op == op)


def _train(graph_def: Any) -> None:
    for node in graph_def.node:
        if node.op == "FusedBatchNormV3":
            node.attr["is_training"].b = True


def _strip_defaults(graph_def: Any) -> None:
    for node in graph_def.node:
        if node.op == "FusedBatchNormV3":
            del node.attr["is_training"]


def _compute_gradients(graph_def: Any) -> None:
    graph_def.node.add(name="gradients/Conv2D_grad", op="Conv2DBackpropFilter")


def _read_a_pipeline(graph_def: Any) -> None:
    """Take the images from an iterator, as in training."""
    node = next(node for node in graph_def.node if node.name == "input")
    node.op = "IteratorGetNext"


def _halve(graph_def: Any) -> None:
    for node in graph_def.node:
        if node.op == "Conv2D":
            node.attr["T"].type = 19  # DT_HALF


def _lose_output(graph_def: Any) -> None:
    for node in graph_def.node:
        if node.op == "BiasAdd" and node.attr["T"].type == 1:
            last = node
    last.op = "Identity"
    del last.input[1:]


def _lose_node(graph_def: Any) -> None:
    name = _first(graph_def, "DepthwiseConv2dNative").input[0]
    kept = [node for node in graph_def.node if node.name != name]
    del graph_def.node[:]
    graph_def.node.extend(kept)


def _unknown_operation(graph_def: Any) -> None:
    _first(graph_def, "DepthwiseConv2dNative").op = "NoSuchOperation"


def _insert(graph_def: Any, op: str) -> None:
    """Put an operation between two layers."""
    user = _first(graph_def, "DepthwiseConv2dNative")
    node = graph_def.node.add(name="inserted", op=op, input=[user.input[0]])
    node.attr["T"].type = 1
    user.input[0] = "inserted"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_train, "is a training graph: read, not run: its batch norms use the statistics of the batch"),
        (_strip_defaults, "is a training graph: read, not run: its batch norms"),
        (_compute_gradients, "is a training graph: read, not run: it computes gradients"),
        (_read_a_pipeline, "is a training graph: read, not run: it has no placeholder for images"),
        (_halve, "does not compute in float32"),
        (_lose_node, "is damaged"),
        (_unknown_operation, "has the operation .* of type NoSuchOperation"),
    ],
)
def test_unsuitable_graph_is_refused(
    change: Callable[[Any], None], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    meta = edit_graph(Path(f"{checkpoint}.meta"), tmp_path / "model.meta", change)
    with pytest.raises(GraphError, match=f"(?s)model.meta {message}"):
        graph_of(checkpoint, meta)


@pytest.mark.parametrize("op", ["Print", "ReadFile", "DebugIdentity", "PyFuncStateless", "While", "NextIteration"])
def test_only_arithmetic_is_run(op: str, checkpoint: Path, tmp_path: Path) -> None:
    """Some of these have no state for TensorFlow, though they read or write files, call Python or never end."""
    meta = edit_graph(Path(f"{checkpoint}.meta"), tmp_path / "model.meta", lambda graph_def: _insert(graph_def, op))
    with pytest.raises(GraphError, match=f"has the operation inserted of type {op}; .* arithmetic alone"):
        graph_of(checkpoint, meta)


def test_what_is_not_between_image_and_outputs_is_never_run(
    checkpoint: Path, images: NDArray[Any], tmp_path: Path
) -> None:
    """A file that the graph would write, had the operation been kept."""
    tf, target = import_tensorflow(), tmp_path / "stolen"
    with tf.Graph().as_default() as graph:
        tf.io.write_file(str(target), "stolen", name="write")
    nodes = graph.as_graph_def().node

    def write_a_file(graph_def: Any) -> None:
        graph_def.node.extend(nodes)
        for node in graph_def.node:
            if node.op in ("Conv2D", "Placeholder"):
                node.input.append("^write")

    meta = edit_graph(Path(f"{checkpoint}.meta"), tmp_path / "model.meta", write_a_file)
    assert errors(graph_of(checkpoint, meta).outputs(images), graph_of(checkpoint).outputs(images)) == [0.0] * 6
    assert not target.exists()
    with tf.compat.v1.Session(graph=graph) as session:  # negative control: it does write
        session.run("write")
    assert target.exists()


def test_variables_of_another_model_are_refused(checkpoint: Path) -> None:
    name = "class_net/class-predict/bias"
    outline, meta = Outline(CONFIG.backbone, tuple(CONFIG.levels), CONFIG.image_size), Path(f"{checkpoint}.meta")
    with pytest.raises(ParityError, match=rf"1 variables do not fit, among the checkpoint's {name} .* is \(180,\)"):
        GraphReference(meta, outline, {**EMA, name: np.zeros(180, np.float32)})
    with pytest.raises(ParityError, match=rf"{name} \(18,\) is missing"):
        GraphReference(meta, outline, {key: value for key, value in EMA.items() if key != name})


@pytest.mark.parametrize(
    ("error", "changes", "message"),
    [
        (ParityError, {"levels": (3, 4, 5, 6)}, "has 3 outputs with class_net/class-predict/bias; the model has 4"),
        (GraphError, {"backbone": "efficientnet-b1"}, "no convolution that takes efficientnet-b1/stem/conv2d/kernel"),
    ],
)
def test_another_variant_is_refused(error: type[Exception], changes: Any, message: str, checkpoint: Path) -> None:
    with pytest.raises(error, match=message):
        graph_of(checkpoint, **changes)


def test_a_lost_output_is_missed(checkpoint: Path, tmp_path: Path) -> None:
    meta = edit_graph(Path(f"{checkpoint}.meta"), tmp_path / "model.meta", _lose_output)
    with pytest.raises(
        ParityError, match="has 2 outputs with box_net/box-predict/bias; the model has 3: it is another"
    ):
        graph_of(checkpoint, meta)


@pytest.mark.parametrize("name", ["model.meta", "saved_model.pb", "model_frozen.pb"])
@pytest.mark.parametrize("content", ["cut", "text", "empty", "missing"])
def test_damaged_file_is_refused(content: str, name: str, checkpoint: Path, tmp_path: Path) -> None:
    stored = Path(f"{checkpoint}.meta").read_bytes()
    damaged = {"cut": stored[: len(stored) // 2], "text": b"<html>404 not found</html>", "empty": b""}
    if content in damaged:
        (tmp_path / name).write_bytes(damaged[content])
    with pytest.raises(GraphError, match=f"^{name} "):
        graph_of(checkpoint, tmp_path / name)


def test_a_saved_model_without_a_signature(images: NDArray[Any], tmp_path: Path) -> None:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    folder, _ = write_tf1_exports(tmp_path / "export", CONFIG, RAW)
    file = folder / "saved_model.pb"
    stored = SavedModel.FromString(file.read_bytes())
    stored.meta_graphs[0].signature_def.clear()
    graphs = []
    with prepared(folder) as preparation:
        graphs.append(graph_reference(file, preparation).outputs(images))
        file.write_bytes(stored.SerializeToString())
        graphs.append(graph_reference(file, preparation).outputs(images))
    assert errors(*graphs) == [0.0] * 6


def test_the_graph_in_an_archive(checkpoint: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(checkpoint.parent, "model")
    with prepared(tmp_path / "model.tar.gz") as preparation:
        path = find_graph(preparation)
        assert path is not None
        assert path.read_bytes() == Path(f"{checkpoint}.meta").read_bytes()


def test_a_checkpoint_without_a_graph(checkpoint: Path, tmp_path: Path) -> None:
    for part in checkpoint.parent.glob("model.*"):
        if part.suffix != ".meta":
            (tmp_path / part.name).write_bytes(part.read_bytes())
    with prepared(tmp_path / "model") as preparation:
        assert find_graph(preparation) is None
