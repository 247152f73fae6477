"""The names of the keys of a TF2 checkpoint.

Keys are paths of Python attributes, such as `backbone/_blocks/0/_bn1/beta/.ATTRIBUTES/VARIABLE_VALUE`. The graph of
objects, stored beside the values, has every key's full name, which is the variable's TF1 name. An optimizer is known by
what it holds, not by its name or place; what can be reached only through one is no part of the model:

| stored                                                  | name here                  |
| ------------------------------------------------------- | -------------------------- |
| variable X of the model                                 | X                          |
| averages of X, see below                                | X/ExponentialMovingAverage |
| what else an optimizer keeps for X: momentum, m, v, ... | X/momentum, ...            |
| the optimizer's step count                              | global_step                |
| anything else of the optimizer                          | optimizer/...              |
| the graph itself, settings of Python objects            | object_graph/...           |

Averages of X are its slot `average` (optimizers of Keras 2 and TensorFlow Addons), an optimizer's variable
`SGD/average/X` or `average/X` (Keras 2.11 and newer, built while or before training), the entry at X's place of an
optimizer's `_model_variables_moving_average` (Keras 3), and the shadow `X/ExponentialMovingAverage` of
`tf.train.ExponentialMovingAverage`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.formats.trackable import ROOT, VALUE, Node, local_name, reachable, read_nodes
from converter.identify.naming import drop_outer, undo_counters
from converter.readers.tensorflow.tensorbundle import OBJECT_GRAPH
from converter.source import AVERAGE, OPTIMIZER, STEP

_GRAPH = "object_graph"
_STEP_COUNTERS = ("iter", "_iterations")
_SIGNS = {"_variables", "learning_rate", "decay"}  # one of these beside a step counter makes an optimizer
_AVERAGED, _AVERAGES = "_trainable_variables", "_model_variables_moving_average"
_SLOTS = {"average": AVERAGE}  # other slots keep their names
# Training on a TF-Hub module: attribute -> scope. A module has its variables as attributes: their TF1 names and ":0".
_HUB_MODULE, _HUB_HEADS = "base_model/", {"classes": "class_net/class-predict", "boxes": "box_net/box-predict"}
_NUMBERED = re.compile(f"/{AVERAGE}_[0-9]+$")
_OUTPUT = ":0"  # TensorFlow's first output of an operation, which ends the name of a variable


class Names(NamedTuple):
    """{name: key} of the content of a checkpoint.

    Attributes:
        model: everything outside optimizers but averages: the variables of the model, counters.
        others: averages, optimizer slots and state, the object graph.
    """

    model: dict[str, str]
    others: dict[str, str]


def read_names(graph: bytes, keys: Iterable[str]) -> Names:
    """Name all keys of a checkpoint.

    Args:
        graph: the value of the key `_CHECKPOINTABLE_OBJECT_GRAPH`.
        keys: all keys, including that one.

    Raises:
        CorruptFileError: The graph is damaged, or lists a key that is not stored.
        UnsupportedSourceError: Two keys hold variables of the same name.
    """
    keys, nodes = list(keys), read_nodes(graph)
    full_names = {node.key: node.full_name for node in nodes if node.key}
    if lost := full_names.keys() - set(keys):  # a lost average would leave a mixture of averages and raw values
        raise CorruptFileError(f"{min(lost)} is listed but not stored ({len(lost)} of {len(full_names)} variables)")
    optimizers = _optimizers(nodes)
    state = reachable(nodes, optimizers) - reachable(nodes, [ROOT], closed=optimizers)
    slots = dict(_slots(nodes, optimizers))
    outside = slots.keys() | {nodes[place].key for place in state}
    given = _given_names([key for key in keys if key.endswith(VALUE) and key not in outside], full_names)
    official = _official_names(given.values())
    model = {key: official[name] for key, name in given.items()}
    # The last is the innermost: in Keras 3 an outer optimizer, which scales the loss, does not count.
    steps = [nodes[n].children[c] for n in sorted(optimizers) for c in _STEP_COUNTERS if c in nodes[n].children]
    namer = _Namer(slots, model, official, full_names, nodes[steps[-1]].key if steps else "")
    names = _unique(keys, model, namer)
    averages = {name for name in names if name.endswith(f"/{AVERAGE}")}
    in_model = {name for name, key in names.items() if key in model} - averages
    return Names(
        {name: key for name, key in names.items() if name in in_model},
        {name: key for name, key in names.items() if name not in in_model},
    )


def _unique(keys: Iterable[str], model: Mapping[str, str], namer: _Namer) -> dict[str, str]:
    """Return {name: key}; of what is not needed, such as the momenta of two optimizers, the second has its own name."""
    names: dict[str, str] = {}
    for key in (*model, *(key for key in keys if key not in model)):
        name = model[key] if key in model else namer.name(key)
        if name in names and key not in model and not name.endswith(f"/{AVERAGE}"):
            name = f"{OPTIMIZER}/{key}"
        if name in names:
            raise UnsupportedSourceError(f"{names[name]} and {key} are both named {name!r}; expected one model")
        names[name] = key
    return names


def _optimizers(nodes: Sequence[Node]) -> set[int]:
    """Return the objects that keep slots, or count steps and have what optimizers have, or are called so."""
    called = {node.children[OPTIMIZER] for node in nodes if OPTIMIZER in node.children}
    counting = {
        place
        for place, node in enumerate(nodes)
        if _SIGNS & node.children.keys() and not node.children.keys().isdisjoint(_STEP_COUNTERS)
    }
    keeping = {place for place, node in enumerate(nodes) if node.slots}
    return (called | counting | keeping) - {ROOT}


def _slots(nodes: Sequence[Node], optimizers: Iterable[int]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield (key of a slot, (key of its variable, slot))."""
    for node in nodes:
        for slot in node.slots:
            yield nodes[slot.value].key, (nodes[slot.variable].key, slot.name)
    for optimizer in optimizers:
        children = nodes[optimizer].children
        if _AVERAGED in children and _AVERAGES in children:
            variables = nodes[children[_AVERAGED]].children
            for place, average in nodes[children[_AVERAGES]].children.items():
                if place in variables:
                    yield nodes[average].key, (nodes[variables[place]].key, "average")


def _given_names(keys: Iterable[str], full_names: Mapping[str, str]) -> dict[str, str]:
    """Return {key: name in the file}: the full name where it has a scope, which every variable of a layer has."""
    paths = {key: key.removesuffix(VALUE) for key in keys}
    full = {key: full_names.get(key, "") for key in paths}
    given = {key: full[key] if "/" in full[key] or full[key] == STEP else path for key, path in paths.items()}
    tracked = {key: local_name(path) for key, path in paths.items()}
    named = {key: name.removesuffix(_OUTPUT) for key, name in tracked.items() if name.endswith(_OUTPUT) and "/" in name}
    if any(paths[key].startswith(_HUB_MODULE) for key in named):
        heads = ((key, path.rpartition("/")) for key, path in paths.items())
        named |= {key: f"{_HUB_HEADS[head]}/{leaf}" for key, (head, _, leaf) in heads if head in _HUB_HEADS}
    return {**given, **named}


def _official_names(given: Iterable[str]) -> dict[str, str]:
    """Return {name in the file: TF1 name}; the second keeper of averages in a process calls them after its number."""
    inner = drop_outer(given)
    official = {inner[name]: better for better, name in undo_counters(inner).items()}
    taken = set(official.values())
    unnumbered = {name: _NUMBERED.sub(f"/{AVERAGE}", better) for name, better in official.items()}
    return {name: better if unnumbered[name] in taken else unnumbered[name] for name, better in official.items()}


@dataclass(frozen=True)
class _Namer:
    """Names the keys that do not hold a variable of the model.

    Attributes:
        slots: {key of a slot: (key of its variable, slot)}.
        model: {key: TF1 name}.
        official: {name in the file: TF1 name}.
        full_names: {key: full name}.
        step: the key of the step count.
    """

    slots: Mapping[str, tuple[str, str]]
    model: Mapping[str, str]
    official: Mapping[str, str]
    full_names: Mapping[str, str]
    step: str

    def name(self, key: str) -> str:
        if not key.endswith(VALUE):
            return _GRAPH if key == OBJECT_GRAPH else f"{_GRAPH}/{key}"
        if key == self.step and STEP not in self.official:
            return STEP
        path = key.removesuffix(VALUE)
        variable, slot = self.slots.get(key) or self._copy(self.full_names.get(key, ""))
        name = self.model.get(variable, self.official.get(variable))
        if name is not None:
            slot = slot or path.split("/")[-2:][0]  # a copy under the variable's own name, in a list of this name
            return f"{name}/{_SLOTS.get(slot, slot)}"
        inside = f"/{path}".partition(f"/{OPTIMIZER}/")[2]
        return f"{OPTIMIZER}/{inside or path}"

    @cached_property
    def _flat(self) -> dict[str, str]:
        """{name as Keras 3 writes it into the names of its optimizers' variables: name in the file}."""
        return {name.replace("/", "_"): name for name in self.official if "/" in name}

    def _copy(self, full_name: str) -> tuple[str, str]:
        """Return the variable X and the slot that the name of an optimizer's variable tells; empty if none.

        Names are "Adam/m/X", "m/X", "X/shadow"; in Keras 3 "adam/X_momentum" with underscores in X.
        """
        parts = full_name.split("/")
        for start in range(min(len(parts), 4)):
            for stop in range(len(parts), start + 1, -1):
                if (variable := "/".join(parts[start:stop])) in self.official:
                    return variable, "/".join(parts[stop:]) or "".join(parts[start - 1 : start])
        words = parts[-1].split("_")
        for stop in range(len(words) - 1, 0, -1):
            if variable := self._flat.get("_".join(words[:stop]), ""):
                return variable, "_".join(words[stop:])
        return "", ""
