"""Every kind of file that the official code writes, by TensorFlow and Keras: the same network, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import UnsupportedSourceError, ViewError
from converter.inspection import inspect_source
from converter.locate import open_checkpoint
from support.keras_model import MovingAverage, detector, is_trained, keras, tf
from support.sources import (
    MemorySource,
    assert_same,
    averages,
    initial,
    plan_of,
    seeded,
    small_config,
    state_dict,
)

v1 = tf.compat.v1
legacy = keras.optimizers.legacy

PLAN = plan_of(small_config())
RAW, AVERAGED = seeded(PLAN, 0), seeded(PLAN, 1)


def test_the_comparison_sees_one_bit() -> None:
    """Negative control."""
    changed = dict(RAW)
    changed["box_net/box-0-bn-3/gamma"] = np.nextafter(RAW["box_net/box-0-bn-3/gamma"], np.float32(9))
    with pytest.raises(AssertionError, match=r"box_net\.bn_rep\.0\.0\.bn\.weight"):
        assert_same(state_dict(MemorySource(changed)), RAW)


# TF1: graphs and sessions.


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of all values; restoring them is much faster than constants in a graph."""
    untrained = {f"untrained/{name}": value for name, value in averages(initial(PLAN)).items()}
    arrays = {**RAW, **averages(AVERAGED), **untrained}
    prefix = str(tmp_path_factory.mktemp("values") / "values")
    tf.raw_ops.SaveV2(
        prefix=prefix, tensor_names=list(arrays), shape_and_slices=[""] * len(arrays), tensors=list(arrays.values())
    )
    return prefix


@pytest.fixture(scope="module")
def built() -> Iterator[Any]:
    """One session for all files of TF1: every variable, its averages, the slots of three optimizers, the step."""
    quick = v1.ConfigProto()
    quick.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default():
        zeros = v1.zeros_initializer()
        for name, value in RAW.items():
            v1.get_variable(name, value.shape, initializer=zeros, trainable=is_trained(name), use_resource=True)
        v1.get_variable("global_step", initializer=np.int64(780), trainable=False)
        tf.train.ExponentialMovingAverage(0.9).apply(list(stored(RAW).values()))
        trained = v1.trainable_variables()
        for optimizer, variables in (
            (v1.train.MomentumOptimizer(0.1, 0.9), trained),
            (v1.train.AdamOptimizer(0.1), trained[::10]),  # a few show how its slots are called
            (v1.train.RMSPropOptimizer(0.1, momentum=0.9), trained[::10]),
        ):
            optimizer.apply_gradients([(tf.zeros_like(variable), variable) for variable in variables])
        session = v1.Session(config=quick)
        session.run(v1.global_variables_initializer())
    yield session
    session.close()


@pytest.fixture
def session(values: str, built: Any) -> Iterator[Any]:
    """The session, with its graph as the default."""
    with built.graph.as_default():
        yield built


def stored(names: Iterable[str]) -> dict[str, Any]:
    """Return the variables of the session's graph that have these names."""
    found = {variable.op.name: variable for variable in v1.global_variables()}
    return {name: found[name] for name in names if name in found}


def restore(session: Any, values: str, averages_from: str = "") -> None:
    """Fill the variables, and the averages with the values stored under a prefix of their names."""
    slots = {f"{averages_from}{name}": variable for name, variable in stored(averages(RAW)).items()}
    v1.train.Saver({**stored(RAW), **slots}).restore(session, values)


SLOTS = {
    "{}/Momentum": "optimizer slot: momentum",
    "{}/Adam": "optimizer slot: Adam's first moment",
    "{}/Adam_1": "optimizer slot: Adam's second moment",
    "beta1_power": "optimizer state: Adam's bias correction",
    "beta2_power": "optimizer state: Adam's bias correction",
    "{}/RMSProp": "optimizer slot: RMSProp's mean square",
    "{}/RMSProp_1": "optimizer slot: RMSProp's momentum",
}


def test_tf1_training_checkpoints(session: Any, values: str, tmp_path: Path) -> None:
    restore(session, values)
    slots = stored(template.format(name) for template in SLOTS for name in RAW)
    for name, copies in (("with", averages(RAW)), ("without", {})):
        parts = {**stored(RAW), **stored(copies), **slots, **stored(["global_step"])}
        prefix = v1.train.Saver(parts).save(session, str(tmp_path / name), global_step=780, write_meta_graph=False)
        facts = inspect_source(open_checkpoint(prefix))
        assert (facts["problems"], facts["step"]) == ([], 780)
        assert set(facts["ignored"]) == {*SLOTS.values(), "training step counter"}
    assert_same(state_dict(open_checkpoint(tmp_path / "with-780")), AVERAGED)
    assert_same(state_dict(open_checkpoint(tmp_path / "with-780"), "raw"), RAW)
    assert_same(state_dict(open_checkpoint(tmp_path / "without-780")), RAW)
    with pytest.raises(ViewError, match="no averages"):
        state_dict(open_checkpoint(tmp_path / "without-780"), "ema")


def test_tf1_saved_model_and_its_frozen_graph(session: Any, values: str, tmp_path: Path) -> None:
    """The official export: raw names hold the averages; the EMA slots in the graph were never filled."""
    total = tf.add_n([tf.reduce_sum(variable) for variable in stored(RAW).values()], name="detections")
    restore(session, values, "untrained/")
    builder = v1.saved_model.Builder(str(tmp_path / "export"))
    parts = {**stored(RAW), **stored(averages(RAW)), **stored(["global_step"])}
    builder.add_meta_graph_and_variables(session, ["serve"], saver=v1.train.Saver(parts))
    builder.save()
    source = open_checkpoint(tmp_path / "export")
    assert source.kind == "TF1 SavedModel"
    assert_same(state_dict(source), RAW)
    with pytest.raises(ViewError, match="hold initial values"):
        state_dict(open_checkpoint(tmp_path / "export"), "ema")
    graph = v1.graph_util.convert_variables_to_constants(session, session.graph_def, [total.op.name])
    frozen = tmp_path / "export" / "efficientdet-d0_frozen.pb"
    frozen.write_bytes(graph.SerializeToString())
    assert open_checkpoint(frozen).kind == "frozen graph"
    assert_same(state_dict(open_checkpoint(frozen)), RAW)


# TF2: Keras models.


class ExportModel(tf.Module):
    """What the official export saves."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @tf.function
    def __call__(self, x: Any) -> Any:
        return self.model(x, training=False)


@pytest.mark.parametrize(
    "fresh",
    [pytest.param(True, id="first model", marks=pytest.mark.slow), pytest.param(False, id="second model")],
)
@pytest.mark.parametrize("name", ["model.h5", "ckpt-1"])
def test_weights_of_any_model_of_a_process(tmp_path: Path, name: str, fresh: bool) -> None:
    detector(AVERAGED)
    model = detector(RAW, fresh=fresh)
    names = {variable.name.removesuffix(":0") for variable in model.variables}
    assert (names == set(RAW)) is fresh
    assert ("efficientnet-b0/stem_1/conv2d_1/kernel" in names) is not fresh
    model.save_weights(tmp_path / name)
    assert_same(state_dict(open_checkpoint(tmp_path / name)), RAW)


def test_tf2_checkpoint(tmp_path: Path) -> None:
    prefix = tf.train.Checkpoint(model=detector(RAW)).save(str(tmp_path / "ckpt"))
    for path in (prefix, tmp_path):
        source = open_checkpoint(path)
        assert source.kind == "TF2 object checkpoint"
        assert set(source.variables) == {*RAW, "save_counter", "object_graph"}
        assert_same(state_dict(source), RAW)


def test_tf2_training_checkpoint_without_averages(tmp_path: Path) -> None:
    model = detector(RAW)
    train(model, legacy.Adam(0.0))
    model.save_weights(tmp_path / "ckpt-7")
    facts = inspect_source(open_checkpoint(tmp_path / "ckpt-7"))
    assert facts["problems"] == []
    assert facts["step"] == 1
    assert sum(facts["ignored"].values()) == facts["variables"] - len(RAW)
    assert_same(state_dict(open_checkpoint(tmp_path / "ckpt-7")), RAW)
    with pytest.raises(ViewError, match="no averages"):
        state_dict(open_checkpoint(tmp_path / "ckpt-7"), "ema")


def test_tf2_training_checkpoints_with_averages(tmp_path: Path) -> None:
    """`ckpt-final` has raw values, and averages in slots; `emackpt-N` has the averages in place of the raw values."""
    model = detector(RAW)
    optimizer = MovingAverage(legacy.SGD(0.0, momentum=0.9))
    model.compile(optimizer=optimizer)
    optimizer._create_all_weights(model.trainable_variables)
    for variable in model.trainable_variables:
        optimizer.get_slot(variable, "average").assign(AVERAGED[variable.name.removesuffix(":0")])
    model.save_weights(tmp_path / "ckpt-final")
    used = {name: AVERAGED[name] if is_trained(name) else RAW[name] for name in RAW}
    source = open_checkpoint(tmp_path / "ckpt-final")
    assert source.facts.notes == (
        f"training kept averages of {sum(map(is_trained, RAW))} variables; the variables are raw values",
    )
    assert_same(state_dict(source), used)
    assert_same(state_dict(open_checkpoint(tmp_path / "ckpt-final"), "raw"), RAW)

    for variable in model.trainable_variables:
        variable.assign(optimizer.get_slot(variable, "average"))
    model.save_weights(tmp_path / "emackpt-3")
    facts = inspect_source(open_checkpoint(tmp_path / "emackpt-3"))
    assert "raw values are not stored" in facts["notes"][0]
    assert (facts["problems"], facts["differing_variables"]) == ([], 0)
    assert_same(state_dict(open_checkpoint(tmp_path / "emackpt-3")), used)


def test_tf2_checkpoint_of_a_newer_optimizer(tmp_path: Path) -> None:
    model = detector(RAW)
    train(model, keras.optimizers.Adam(0.0, use_ema=True))
    model.save_weights(tmp_path / "ckpt-1")
    facts = inspect_source(open_checkpoint(tmp_path / "ckpt-1"))
    assert (facts["problems"], facts["step"]) == ([], 1)
    assert facts["views"]["ema"]["variables"] == len(RAW)
    assert_same(state_dict(open_checkpoint(tmp_path / "ckpt-1"), "raw"), RAW)


def train(model: Any, optimizer: Any) -> None:
    """Take one step; with a learning rate of 0 it changes only the optimizer."""
    model.compile(optimizer=optimizer)
    optimizer.apply_gradients([(tf.zeros_like(variable), variable) for variable in model.trainable_variables])


@pytest.mark.slow
def test_tf2_saved_model(tmp_path: Path) -> None:
    export = ExportModel(detector(RAW))
    signature = export.__call__.get_concrete_function(tf.TensorSpec([1]))
    tf.saved_model.save(export, str(tmp_path / "export"), signatures={"serving_default": signature})
    source = open_checkpoint(tmp_path / "export")
    assert source.kind == "TF2 SavedModel"
    assert {name for name in source.variables if name not in RAW} >= {"head/dense/bias", "object_graph"}
    reason = "classifier on top of the backbone, which a detector does not have"
    assert inspect_source(source)["ignored"][reason] == 7
    assert_same(state_dict(source), RAW)


def test_graph_frozen_by_tf2_is_refused(tmp_path: Path) -> None:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2_as_graph

    export = ExportModel(detector(RAW))
    _, graph = convert_variables_to_constants_v2_as_graph(export.__call__.get_concrete_function(tf.TensorSpec([1])))
    (tmp_path / "d0_frozen.pb").write_bytes(graph.SerializeToString())
    with pytest.raises(UnsupportedSourceError, match=r"frozen by TF2.*Pass the checkpoint or the SavedModel"):
        open_checkpoint(tmp_path / "d0_frozen.pb")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Keras 3 itself
@pytest.mark.parametrize("name", ["model.weights.h5", "model.keras"])
def test_keras_3_is_named(tmp_path: Path, name: str) -> None:
    keras_3 = pytest.importorskip("keras")
    model = keras_3.Sequential([keras_3.layers.Input((3,)), keras_3.layers.Dense(2)])
    (model.save if name.endswith(".keras") else model.save_weights)(str(tmp_path / name))
    with pytest.raises(UnsupportedSourceError, match=r"Keras 3.*tf-keras"):
        open_checkpoint(tmp_path / name)


# The official training checkpoint, and the same averages as .h5 and as TF2 checkpoint.


def test_three_files_of_one_training(shared: Path) -> None:
    folder = shared / "trained_d0_256"
    wanted = state_dict(open_checkpoint(folder), "ema")
    raw = state_dict(open_checkpoint(folder), "raw")
    h5, tf2 = (
        state_dict(open_checkpoint(folder / name)) for name in ("efficientdet-d0_ema.h5", "tf2_object_checkpoint")
    )
    for found, is_same in ((h5, True), (tf2, True), (raw, False)):
        assert found.keys() == wanted.keys()
        assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted) is is_same
