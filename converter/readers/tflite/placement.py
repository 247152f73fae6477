"""Folded layers -> official variables: which values of the file each variable is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.errors import CorruptFileError, MappingError, UnsupportedSourceError
from converter.plan.expand import Entry, Plan
from converter.plan.ops import Shape
from converter.readers.tflite.content.constants import real_values
from converter.readers.tflite.content.graph import Graph
from converter.readers.tflite.dialect import Dialect
from converter.readers.tflite.walk.found import Key, NetworkFound, Site, key_of

# The axes of a layer's place; the first line whose axes it all has.
AXES = (
    ("flat",),
    ("cell", "node", "position"),
    ("cell", "node"),
    ("head", "repeat", "level"),
    ("head", "repeat"),
    ("head",),
    (),
)
# Type of a kernel -> how far the copies of one may differ, besides their gain: one rounding of it.
COPIES_DIFFER = {"float32": 1e-5, "float16": 2e-3}
COPIES_OF_CODES = 1e-2


@dataclass(frozen=True, eq=False)
class Recipe:
    """How one variable is made.

    Attributes:
        rule: of the dialect's table, or the number that all values are.
        shape: of the variable.
        site: the folded layer; None for a number.
        value: of a fusion weight.
    """

    rule: str | float
    shape: Shape
    site: Site | None = None
    value: NDArray[np.float32] | None = None


@np.errstate(all="ignore")
def place(network: NetworkFound, plan: Plan, dialect: Dialect) -> dict[str, Recipe]:
    """Return {official variable: recipe} of everything that a plan needs.

    Args:
        network: found in the graph.
        plan: of a config with just these layers, biases in front of batch norms included.
        dialect: the table.

    Raises:
        MappingError: The table does not say how a variable follows.
        UnsupportedSourceError: The graph has a layer more or less than the plan, or one with another shape.
    """
    recipes: dict[str, Recipe] = {}
    taken: dict[Key, list[Site]] = {}
    biased = set[int]()
    for entry in plan.entries:
        for number, name in enumerate(entry.sources):
            key = _key(entry)
            rule = _rule(entry, dialect)
            if rule == "weight":
                value = network.weights[key].values[number]
                recipes[name] = Recipe(rule, entry.shape, value=value)
                continue
            if isinstance(rule, str):
                site = _site(network, key, taken.setdefault(key, []), rule)
                biased |= {site.operation.index} if rule == "bias" else set()
                recipes[name] = Recipe(rule, entry.shape, site)
            else:
                recipes[name] = Recipe(rule, entry.shape)
    _require_all(network, taken, biased)
    for name, recipe in recipes.items():
        _require_shape(network.graph, name, recipe)
    return recipes


def _key(entry: Entry) -> Key:
    indices = entry.layer.indices
    axes = next(axes for axes in AXES if all(axis in indices for axis in axes))
    return key_of(**{axis: indices[axis] for axis in axes})


def _rule(entry: Entry, dialect: Dialect) -> str | float:
    variable = entry.sources[0].removeprefix(f"{entry.layer.tf}/")
    try:
        return dialect.kinds[entry.layer.kind][variable]
    except KeyError as error:
        raise MappingError(
            f"mappings/tflite.yaml: no rule for the variable {variable!r} of the kind {entry.layer.kind!r}"
        ) from error


def _site(network: NetworkFound, key: Key, taken: list[Site], rule: str) -> Site:
    """Return the layer that a rule means: a kernel is the next one's, everything else belongs to the last one."""
    waiting = network.sites.get(key, [])[len(taken) :]
    if (rule in ("conv", "depthwise") or not taken) and waiting:
        taken.append(waiting[0])
    elif rule in ("conv", "depthwise") or not taken:
        raise UnsupportedSourceError(f"no convolution at {_words(key)}, where an EfficientDet has one")
    kinds = {"conv": "CONV_2D", "depthwise": "DEPTHWISE_CONV_2D"}
    if kinds.get(rule, taken[-1].operation.kind) != taken[-1].operation.kind:
        raise UnsupportedSourceError(f"a {taken[-1].operation.kind} at {_words(key)}; expected a {kinds[rule]}")
    return taken[-1]


def _require_all(network: NetworkFound, taken: Mapping[Key, list[Site]], biased: set[int]) -> None:
    """Check that every layer of the network is used, and every bias that is not zero."""
    placed = set[int]()
    for key, sites in network.sites.items():
        if len(sites) != len(taken.get(key, [])):
            raise UnsupportedSourceError(
                f"{len(sites)} convolutions at {_words(key)}; expected {len(taken.get(key, []))}"
            )
        placed |= {site.operation.index for site in sites}
        for site in sites:
            if site.operation.index not in biased and bias_values(network.graph, site, 1).any():
                raise UnsupportedSourceError(
                    f"the {site.operation.kind} at {_words(key)} (operation {site.operation.index}) has a bias, where "
                    "an EfficientDet has none"
                )


def _require_shape(graph: Graph, name: str, recipe: Recipe) -> None:
    if recipe.site is None:
        found = recipe.shape if recipe.value is None else recipe.value.shape
    else:
        operation = recipe.site.operation
        outputs = 3 if operation.kind == "DEPTHWISE_CONV_2D" else 0  # the axis of (1, H, W, C), or of (O, H, W, I)
        found = SHAPES[str(recipe.rule)](graph.tensor(operation.inputs[1]).shape, outputs)
    if found != recipe.shape:
        raise UnsupportedSourceError(f"{name} has the shape {found}; expected {recipe.shape}")


def _words(key: Key) -> str:
    return " ".join(f"{axis} {index}" for axis, index in sorted(key)) or "the stem or P6"


# Rule -> the shape of the variable, from that of the kernel and the axis of its output channels.
SHAPES: Mapping[str, Callable[[Shape, int], Shape]] = {
    "conv": lambda shape, _: (*shape[1:], shape[0]),
    "depthwise": lambda shape, _: (*shape[1:], shape[0]),
    "bias": lambda shape, outputs: (shape[outputs],),
    "gain": lambda shape, outputs: (shape[outputs],),
}


@np.errstate(all="ignore")  # values that are not numbers are found by whoever writes them
def make(graph: Graph, recipe: Recipe) -> NDArray[Any]:
    """Return the values of a variable: float32, in TensorFlow's layout.

    Raises:
        CorruptFileError: A constant is damaged.
        UnsupportedSourceError: A constant cannot be read, or the copies of a head's kernel are different kernels.
    """
    if recipe.value is not None:
        return recipe.value
    if recipe.site is None:
        return np.full(recipe.shape, recipe.rule, np.float32)
    return MAKERS[str(recipe.rule)](graph, recipe.site, recipe.shape)


def _kernel(graph: Graph, site: Site) -> NDArray[np.float32]:
    """Return the kernel of a layer without what is folded into it: (O, H, W, I), or (1, H, W, C)."""
    kernel = real_values(graph.tensor(site.operation.inputs[1]))
    return kernel if site.factor is None else _divided(kernel, np.reshape(site.factor, (-1, 1, 1, 1)))


def _divided(values: NDArray[np.float32], factor: Any) -> NDArray[np.float32]:
    return (values.astype(np.float64) / np.where(factor == 0, 1, factor)).astype(np.float32)


def bias_values(graph: Graph, site: Site, count: int) -> NDArray[np.float32]:
    """Return the bias of a layer; zeros where it has none."""
    inputs = site.operation.inputs
    if len(inputs) < 3 or inputs[2] < 0:
        return np.zeros(count, np.float32)
    if not graph.is_constant(inputs[2]):
        raise UnsupportedSourceError(f"the bias of operation {site.operation.index} is computed; expected a constant")
    values = real_values(graph.tensor(inputs[2]))
    return values if site.factor is None else _divided(values, np.reshape(site.factor, -1))


def _bias(graph: Graph, site: Site, shape: Shape) -> NDArray[Any]:
    values = bias_values(graph, site, shape[0])
    if values.shape != shape:
        raise CorruptFileError(
            f"the bias of operation {site.operation.index} has the shape {values.shape}; expected {shape}. Download or "
            "copy it again"
        )
    return values


def _gain(graph: Graph, site: Site, shape: Shape) -> NDArray[Any]:
    """Return the factor of every channel between a kernel and the same one at the finest level."""
    if site.base is None or site.base is site.operation:
        return np.ones(shape, np.float32)
    tensor = graph.tensor(site.operation.inputs[1])
    here = real_values(tensor).astype(np.float64).reshape(shape[0], -1)
    base = real_values(graph.tensor(site.base.inputs[1])).astype(np.float64)
    if base.size != here.size:
        raise UnsupportedSourceError(f"the kernel {tensor.name[:200]!r} has not as many values as the finest level's")
    base = base.reshape(here.shape)
    power = (base**2).sum(axis=1)
    gain = (here * base).sum(axis=1) / np.where(power == 0, 1, power)
    gain[(power == 0) & ~here.any(axis=1)] = 1
    differ = np.abs(here - gain[:, None] * base).max(axis=1)
    tolerance = COPIES_DIFFER.get(tensor.dtype, COPIES_OF_CODES)
    if (differ > tolerance * np.abs(here).max(axis=1)).any():
        raise UnsupportedSourceError(
            f"the kernel {tensor.name[:200]!r} is not that of the finest level times a factor for each channel: the "
            f"channels differ by up to {differ.max():.2g}; an EfficientDet's levels share the convolutions of the heads"
        )
    return np.asarray(gain, np.float32)


MAKERS: Mapping[str, Callable[[Graph, Site, Shape], NDArray[Any]]] = {
    "conv": lambda graph, site, _: _kernel(graph, site).transpose(1, 2, 3, 0),
    "depthwise": lambda graph, site, _: _kernel(graph, site).transpose(1, 2, 3, 0),
    "bias": _bias,
    "gain": _gain,
}
