"""The object graph of a TF2 checkpoint: which variable every key holds.

Keys are paths of Python attributes, such as `backbone/_blocks/0/_bn1/beta/.ATTRIBUTES/VARIABLE_VALUE`. The graph,
stored beside the values, gives every key's full name, which is the variable's TF1 name. Names here become those of TF1:

| stored                                        | name here                           |
| --------------------------------------------- | ----------------------------------- |
| variable X of the model                       | X                                   |
| optimizer slot of X: average, momentum, m, v  | X/ExponentialMovingAverage, ...     |
| the optimizer's step count                    | global_step                         |
| anything else of the optimizer                | optimizer/...                       |
| the graph itself, settings of Python objects  | object_graph, object_graph/...      |

Errors say what is wrong with the bytes; the caller, who knows the file, adds its name.

Source: TensorFlow's `trackable_object_graph.proto`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from converter.errors import CorruptFileError, UnsupportedSourceError
from converter.formats.protobuf import Message
from converter.identify.naming import undo_counters
from converter.readers.tensorflow.tensorbundle import OBJECT_GRAPH

AVERAGE = "ExponentialMovingAverage"
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_OPTIMIZER = "optimizer"
_GRAPH = "object_graph"
_STEP, _STEP_COUNTERS = "global_step", ("iter", "_iterations")
# Slot of a Keras optimizer -> slot of the TF1 optimizer that keeps the same.
_SLOTS = {"average": AVERAGE, "momentum": "Momentum", "m": "Adam", "v": "Adam_1", "rms": "RMSProp"}


class _Node(NamedTuple):
    """An object: the key and full name of its value, if it has one, and its slots as (variable, slot, value)."""

    key: str
    full_name: str
    slots: tuple[tuple[int, str, int], ...]


class Names(NamedTuple):
    """{name: key} of what a checkpoint holds.

    Attributes:
        model: what is no part of an optimizer: the variables of the model, counters.
        others: optimizer slots and state, the object graph.
    """

    model: dict[str, str]
    others: dict[str, str]


def read_names(graph: bytes, keys: Iterable[str]) -> Names:
    """Name all keys of a checkpoint.

    Args:
        graph: the value of the key `_CHECKPOINTABLE_OBJECT_GRAPH`.
        keys: all keys, that one included.

    Raises:
        CorruptFileError: The graph is damaged, or lists what is not stored.
        UnsupportedSourceError: Two keys hold variables of the same name.
    """
    keys = list(keys)
    nodes = [_read_node(payload) for payload in Message(graph).payloads(1)]
    slots = dict(_slots(nodes))
    full_names = {node.key: node.full_name for node in nodes if node.key}
    if lost := full_names.keys() - set(keys):  # a lost average would leave a mixture of averages and raw values
        raise CorruptFileError(f"{min(lost)} is listed and not stored ({len(lost)} of {len(full_names)} variables)")
    in_model = [key for key in keys if key.endswith(_VALUE) and key not in slots and _OPTIMIZER not in key.split("/")]
    given = {key: full_names.get(key) or key.removesuffix(_VALUE) for key in in_model}
    official = {name: better for better, name in undo_counters(given.values()).items()}
    names = {key: official[name] for key, name in given.items()}
    others = [(_name_other(key, slots, names, full_names, official), key) for key in keys if key not in names]
    _refuse_duplicates([*((name, key) for key, name in names.items()), *others])
    return Names({name: key for key, name in names.items()}, dict(others))


def _refuse_duplicates(pairs: Iterable[tuple[str, str]]) -> None:
    first: dict[str, str] = {}
    for name, key in pairs:
        if name in first:
            raise UnsupportedSourceError(f"{first[name]} and {key} are both called {name!r}; expected one model")
        first[name] = key


def _read_node(payload: bytes) -> _Node:
    message = Message(payload)
    attributes = [Message(attribute) for attribute in message.payloads(2)]
    keys = [(_text(a.payload(3)), _text(a.payload(2))) for a in attributes]
    values = [pair for pair in keys if pair[0].endswith(_VALUE)]
    slots = (Message(slot) for slot in message.payloads(3))
    return _Node(
        *(values[0] if values else ("", "")),
        tuple((slot.integer(1), _text(slot.payload(2)), slot.integer(3)) for slot in slots),
    )


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{data[:80]!r} in the object graph is no text") from error


def _slots(nodes: list[_Node]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield (key of a slot, (key of its variable, slot))."""
    for variable, slot, value in (slot for node in nodes for slot in node.slots):
        if not (0 <= variable < len(nodes) and 0 <= value < len(nodes)):
            raise CorruptFileError(f"slot {slot!r} joins the objects {variable} and {value} of {len(nodes)}")
        yield nodes[value].key, (nodes[variable].key, slot)


def _name_other(
    key: str,
    slots: Mapping[str, tuple[str, str]],
    names: Mapping[str, str],
    full_names: Mapping[str, str],
    official: Mapping[str, str],
) -> str:
    """Name a key that holds no variable of the model."""
    if not key.endswith(_VALUE):
        return _GRAPH if key == OBJECT_GRAPH else f"{_GRAPH}/{key}"
    if key in slots:
        variable, slot = slots[key]
        return _slot_name(names.get(variable), slot, key)
    # Newer Keras optimizers keep their slots in one list, under full names such as "Adam/m/<variable>".
    _, slot, full_name = [*full_names.get(key, "").split("/", 2), "", "", ""][:3]
    if full_name in official:
        return _slot_name(official[full_name], slot, key)
    _, _, path = f"/{key.removesuffix(_VALUE)}".partition(f"/{_OPTIMIZER}/")
    return _STEP if path in _STEP_COUNTERS else f"{_OPTIMIZER}/{path}"


def _slot_name(variable: str | None, slot: str, key: str) -> str:
    return f"{variable}/{_SLOTS[slot]}" if variable and slot in _SLOTS else f"{_OPTIMIZER}/{key}"
