"""Keras models whose layers have the official names, in any order of creation."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

os.environ["TF_USE_LEGACY_KERAS"] = "1"
tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("tf_keras")

Arrays = dict[str, NDArray[Any]]


def is_trained(name: str) -> bool:
    return not name.endswith(("moving_mean", "moving_variance"))


class Scope(keras.layers.Layer):
    """The layers and variables of one scope."""

    def __init__(self, content: dict[str, Any], name: str | None = None) -> None:
        super().__init__(name=name)
        self.values = {key: value for key, value in content.items() if not isinstance(value, dict)}
        self.inner = [make_layer(key, value) for key, value in content.items() if isinstance(value, dict)]

    def build(self, _: Any) -> None:
        self.own = [
            self.add_weight(key, value.shape, initializer=tf.constant_initializer(value), trainable=is_trained(key))
            for key, value in self.values.items()
        ]
        self.built = True

    def call(self, x: Any) -> Any:
        for layer in self.inner:
            x = layer(x)
        return x + tf.add_n([tf.reduce_sum(variable) for variable in self.own]) if self.own else x


class Stem(Scope):
    """Unnamed as in the official code, so that Keras numbers it."""


class Conv2D(Scope):
    """Unnamed as well; other convolutions have names."""


class Head(Scope):
    """The classifier on top of the backbone."""


class MovingAverage(keras.optimizers.legacy.Optimizer):
    """Averages in slots around another optimizer, tracked as TensorFlow Addons does."""

    def __init__(self, inner: Any) -> None:
        super().__init__("MovingAverage")
        self._optimizer = inner
        self._track_trackable(inner, "awg_optimizer")
        self._set_hyper("average_decay", 0.9)

    def _create_slots(self, var_list: list[Any]) -> None:
        self._optimizer._create_slots(var_list)
        for variable in var_list:
            self.add_slot(variable, "average", variable.read_value())

    def _create_hypers(self) -> None:
        self._optimizer._create_hypers()
        super()._create_hypers()

    def get_config(self) -> dict[str, Any]:
        return {}


def make_layer(key: str, content: dict[str, Any]) -> Scope:
    if key == "stem":
        stem = Stem({})
        stem.inner.extend(Conv2D(inner) if name == "conv2d" else Scope(inner, name) for name, inner in content.items())
        return stem
    return Scope(content, key)


class Backbone(keras.Model):
    """Creates the variables of its head only if an export traces it with other arguments than the detector."""

    def __init__(self, content: dict[str, Any], name: str) -> None:
        super().__init__(name=name)
        self.blocks = [make_layer(key, value) for key, value in content.items()]
        norm = {key: np.ones(5, np.float32) for key in ("gamma", "beta", "moving_mean", "moving_variance")}
        self.head = Head({"conv2d": {"kernel": np.ones((1, 1, 4, 5), np.float32)}, "tpu_batch_normalization": norm})
        self.head.inner.append(Scope({"kernel": np.ones((5, 7), np.float32), "bias": np.ones(7, np.float32)}, "dense"))

    def call(self, x: Any, training: bool = False, features_only: bool | None = None) -> Any:
        for block in self.blocks:
            x = block(x)
        return x if features_only else self.head(x)


class Detector(keras.Model):
    """A model without a name, like the official one."""

    def __init__(self, variables: Arrays) -> None:
        super().__init__(name="")
        tree: dict[str, Any] = {}
        for name, value in variables.items():
            *scopes, leaf = name.split("/")
            place = tree
            for scope in scopes:
                place = place.setdefault(scope, {})
            place[leaf] = value
        backbone = next(iter(tree))
        self.backbone = Backbone(tree.pop(backbone), backbone)
        self.parts = [make_layer(key, content) for key, content in tree.items()]

    def _init_set_name(self, name: str, zero_based: bool = True) -> None:
        self._name = name

    def call(self, x: Any, training: bool = False) -> Any:
        x = self.backbone(x, training=training, features_only=True)
        for part in self.parts:
            x = part(x)
        return x


def detector(variables: Arrays, *, fresh: bool = True) -> Any:
    if fresh:
        keras.backend.clear_session()
    model = Detector(variables)
    model(tf.zeros(1))
    return model
