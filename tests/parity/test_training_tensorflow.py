"""Checkpoints that TensorFlow and Keras write in the middle of training: which copy is which, and what is no copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.conversion import prepare
from converter.errors import ViewError
from converter.inspection import inspect_source
from converter.locate import open_checkpoint
from converter.plan.copies import ViewName
from converter.readers.tensorflow.object_graph import AVERAGE
from support.keras_model import MovingAverage, detector, is_trained, keras, tf
from support.quick import mostly_slow
from support.sources import assert_same, plan_of, seeded, small_config, state_dict

optimizers = keras.optimizers
legacy = optimizers.legacy
LossScale = keras.mixed_precision.LossScaleOptimizer

PLAN = plan_of(small_config())
RAW, AVERAGED = seeded(PLAN, 0), seeded(PLAN, 1)
USED = {name: AVERAGED[name] if is_trained(name) else RAW[name] for name in RAW}


@pytest.fixture(scope="module")
def model() -> Any:
    return detector(RAW)


def average_of(variable: Any) -> Any:
    return AVERAGED[variable.name.removesuffix(":0")]


def step(optimizer: Any, model: Any) -> None:
    """Take one step without a change of the variables."""
    optimizer.apply_gradients([(tf.zeros_like(variable), variable) for variable in model.trainable_variables])


def sgd(**options: Any) -> Any:
    return optimizers.SGD(0.0, momentum=0.9, use_ema=True, ema_overwrite_frequency=None, **options)


def fill(optimizer: Any, model: Any) -> Any:
    for variable, average in zip(model.trainable_variables, optimizer._model_variables_moving_average, strict=True):
        average.assign(average_of(variable))
    return optimizer


def built_while_training(model: Any) -> dict[str, Any]:
    optimizer = sgd()
    step(optimizer, model)
    return {"optimizer": fill(optimizer, model)}


def built_before(model: Any) -> dict[str, Any]:
    optimizer = sgd()
    optimizer.build(model.trainable_variables)
    step(optimizer, model)
    return {"optimizer": fill(optimizer, model)}


def in_a_loss_scale_optimizer(model: Any) -> dict[str, Any]:
    optimizer = LossScale(sgd())
    step(optimizer, model)
    fill(optimizer.inner_optimizer, model)
    return {"updates": optimizer}


def slots_of_a_wrapper(model: Any) -> dict[str, Any]:
    optimizer = MovingAverage(legacy.SGD(0.0, momentum=0.9))
    optimizer._create_all_weights(model.trainable_variables)
    for variable in model.trainable_variables:
        optimizer.get_slot(variable, "average").assign(average_of(variable))
    return {"state": tf.train.Checkpoint(inner=optimizer)}


def shadows(model: Any) -> dict[str, Any]:
    keeper = tf.train.ExponentialMovingAverage(0.9)
    keeper.apply(model.trainable_variables)
    found = [keeper.average(variable) for variable in model.trainable_variables]
    for variable, shadow in zip(model.trainable_variables, found, strict=True):
        shadow.assign(average_of(variable))
    return {"shadows": found}


def shadows_beside_slots(model: Any) -> dict[str, Any]:
    optimizer = legacy.Adam(0.0)
    step(optimizer, model)
    return {"train": optimizer, **shadows(model)}


FORMS = (
    built_while_training,
    built_before,
    in_a_loss_scale_optimizer,
    slots_of_a_wrapper,
    shadows,
    shadows_beside_slots,
)


FORM_OF = {form.__name__: form for form in FORMS}


@pytest.mark.parametrize("name", mostly_slow(FORM_OF, ("built_while_training", "slots_of_a_wrapper", "shadows")))
def test_averages_of_every_form_are_converted(tmp_path: Path, model: Any, name: str) -> None:
    path = tf.train.Checkpoint(net=model, **FORM_OF[name](model)).save(str(tmp_path / "run"))
    with open_checkpoint(path) as source:
        assert prepare(source).view.name == "ema"
        assert (
            f"averages of {sum(map(is_trained, RAW))} variables; the variables are raw values" in source.facts.notes[0]
        )
    assert inspect_source(open_checkpoint(path))["problems"] == []
    assert_same(state_dict(open_checkpoint(path)), USED)
    assert_same(state_dict(open_checkpoint(path), "raw"), RAW)
    with pytest.raises(AssertionError):  # negative control: the copies differ
        assert_same(state_dict(open_checkpoint(path)), RAW)


@pytest.mark.slow
def test_averages_of_a_whole_d0(tmp_path: Path) -> None:
    raw, averaged = (seeded(plan_of("d0"), seed) for seed in (0, 1))
    model = detector(raw)
    optimizer = LossScale(sgd())
    optimizer.inner_optimizer.build(model.trainable_variables)
    for variable, average in zip(
        model.trainable_variables, optimizer.inner_optimizer._model_variables_moving_average, strict=True
    ):
        average.assign(averaged[variable.name.removesuffix(":0")])
    path = tf.train.Checkpoint(model=model, optimizer=optimizer).save(str(tmp_path / "run"))
    assert_same(state_dict(open_checkpoint(path)), {n: averaged[n] if is_trained(n) else raw[n] for n in raw})


SLOTS = {
    "SGD": (lambda: optimizers.SGD(0.0, momentum=0.9), {"momentum (SGD) or first moment (Adam and others)"}),
    "legacy SGD": (lambda: legacy.SGD(0.0, momentum=0.9), {"momentum (in Keras 3's Adam the first moment)"}),
    "Adam": (lambda: optimizers.Adam(0.0, amsgrad=True), {"second moment", "AMSGrad's largest second moment"}),
    "legacy Adam": (lambda: legacy.Adam(0.0, amsgrad=True), {"second moment", "AMSGrad's largest second moment"}),
    "RMSprop": (lambda: optimizers.RMSprop(0.0, momentum=0.9, centered=True), {"RMSprop's mean gradient"}),
    "legacy RMSprop": (
        lambda: legacy.RMSprop(0.0, momentum=0.9, centered=True),
        {"RMSprop's mean gradient", "RMSprop's mean square"},
    ),
    "Adagrad": (lambda: optimizers.Adagrad(0.0), {"sum of squared gradients (Adagrad, FTRL)"}),
    "legacy Adagrad": (lambda: legacy.Adagrad(0.0), {"sum of squared gradients (Adagrad, FTRL)"}),
    "Adadelta": (lambda: optimizers.Adadelta(0.0), {"Adadelta's mean squared gradient"}),
    "legacy Adadelta": (lambda: legacy.Adadelta(0.0), {"Adadelta's mean squared update"}),
    "Ftrl": (lambda: optimizers.Ftrl(1e-9), {"FTRL's linear term"}),
    "legacy Ftrl": (lambda: legacy.Ftrl(1e-9), {"FTRL's linear term"}),
    "Adamax": (lambda: optimizers.Adamax(0.0), {"Adamax's infinity norm"}),
    "Nadam": (lambda: optimizers.Nadam(0.0), {"second moment"}),
    "Lion": (lambda: optimizers.Lion(0.0), {"momentum (SGD) or first moment (Adam and others)"}),
    "Adafactor": (lambda: optimizers.Adafactor(0.0), {"second moment"}),
}


@pytest.mark.parametrize("name", mostly_slow(SLOTS, ("SGD", "legacy Adam")))
def test_slots_of_every_optimizer_are_ignored_under_their_right_name(tmp_path: Path, model: Any, name: str) -> None:
    make, reasons = SLOTS[name]
    optimizer = make()
    if "legacy" in name:
        optimizer._create_all_weights(model.trainable_variables)
    else:
        optimizer.build(model.trainable_variables)
    path = tf.train.Checkpoint(model=model, trainer=optimizer).write(str(tmp_path / "run"))
    facts = inspect_source(open_checkpoint(path))
    assert facts["problems"] == []
    assert {f"optimizer slot: {reason}" for reason in reasons} <= set(facts["ignored"])
    assert facts["ignored"].keys() <= {*(r for _, r in PLAN.ignored)}
    assert prepare(open_checkpoint(path)).view.name == "raw"


def test_the_state_of_a_training_loop_is_ignored(tmp_path: Path, model: Any) -> None:
    optimizer = LossScale(legacy.SGD(0.0, momentum=0.9))
    step(optimizer, model)
    loop = {
        "step": tf.Variable(1),
        "epoch": tf.Variable(3, dtype=tf.int64),
        "best": tf.Variable(0.5),
        "iterator": iter(tf.data.Dataset.range(3)),
        "generator": tf.random.Generator.from_seed(1),
        "loss": keras.metrics.Mean(),
        "other": keras.metrics.Mean(),
        "normalizer": tf.Variable(1.0, name="moving_normalizer"),
    }
    path = tf.train.Checkpoint(model=model, solver=optimizer, **loop).write(str(tmp_path / "run"))
    facts = inspect_source(open_checkpoint(path))
    assert (facts["problems"], facts["step"]) == ([], 1)
    assert sum(facts["ignored"].values()) == facts["variables"] - len(RAW)
    assert_same(state_dict(open_checkpoint(path)), RAW)


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("outside", "{}/shadow"),
        ("outside", "shadow/{}"),
        ("optimizer", "{}/shadow"),
        ("optimizer", "shadow/{}"),
        ("optimizer", "{}"),
        ("outside", ""),
        ("optimizer", ""),
    ],
)
def test_an_unknown_copy_is_an_error_that_names_it(tmp_path: Path, model: Any, named: str, place: str) -> None:
    names = [named.format(variable.name.removesuffix(":0")) or None for variable in model.trainable_variables]
    copies = [tf.Variable(v, name=name) for v, name in zip(model.trainable_variables, names, strict=True)]
    holder = tf.train.Checkpoint(shadow=copies)
    path = tf.train.Checkpoint(model=model, **{place: holder}).write(str(tmp_path / "run"))
    with pytest.raises(ViewError, match=r"\d+ variables X have .*shadow.*may be the averages.*--weights raw"):
        prepare(open_checkpoint(path))
    assert "may be the averages" in inspect_source(open_checkpoint(path))["problems"][0]
    assert_same(state_dict(open_checkpoint(path), "raw"), RAW)


VIEWS: tuple[ViewName, ...] = ("ema", "raw")


@pytest.mark.parametrize("scaled", [False, True], ids=["optimizer", "in a LossScaleOptimizer"])
@pytest.mark.parametrize("early", [False, True], ids=["built while training", "built before"])
def test_keras_3(tmp_path: Path, scaled: bool, early: bool) -> None:
    """Its graph shows no names of averages, only their places; keys of variables lie under the optimizer."""
    keras3 = pytest.importorskip("keras", minversion="3")
    layers = [keras3.layers.Dense(2, name="dense"), keras3.layers.BatchNormalization(name="bn")]
    net = keras3.Sequential([keras3.Input((3,)), *layers], name="class_net")
    inner = optimizer = keras3.optimizers.Adam(0.0, use_ema=True)
    if scaled:
        optimizer = keras3.optimizers.LossScaleOptimizer(inner)
    if early:
        optimizer.build(net.trainable_variables)
    optimizer.apply([tf.zeros_like(variable.value) for variable in net.trainable_variables], net.trainable_variables)
    values = {variable.path: variable.numpy() for variable in net.variables}
    for place, average in enumerate(inner._model_variables_moving_average):
        average.assign(np.full(average.shape, place + 7.0, np.float32))
    path = tf.train.Checkpoint(net=net, solver=optimizer).write(str(tmp_path / "run"))
    with open_checkpoint(path) as source:
        for name, value in values.items():
            assert np.array_equal(source.read(name), value)
        for place, variable in enumerate(net.trainable_variables):
            assert np.all(source.read(f"{variable.path}/{AVERAGE}") == place + 7.0)
        assert {f"{name}/velocity" for name in values if not name.endswith(("mean", "variance"))} <= set(
            source.variables
        )
        assert source.read("global_step") == 1
