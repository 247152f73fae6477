"""Whole models that were pickled (`torch.save(model)`): their state_dict, from stored attributes alone.

Nothing of the model's code runs, and its classes need not exist here: a `torch.nn.Module` keeps its tensors in three
dictionaries, whatever its class.

Source: PyTorch's notes on modules (parameters, buffers, submodules, what a state_dict contains).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

from converter.errors import UnsupportedSourceError
from converter.formats.pickled import Call, Name

PARAMETERS, BUFFERS, MODULES = "_parameters", "_buffers", "_modules"
UNSAVED = "_non_persistent_buffers_set"  # buffers that a state_dict leaves out
COMPILED = "torch._dynamo.eval_frame.OptimizedModule"  # of torch.compile: pickled as a call with the model
MAX_ENTRIES = 500_000  # tensors and modules of all models in a file, empty places included: D7x has some 10 000
MAX_KEY = 1000
MAX_NESTING = 10  # of a config: four containers, each with its wrapper, and the value's


def is_model(value: Any) -> TypeGuard[Call]:
    """Whether a value of a pickle is a `torch.nn.Module`."""
    return isinstance(value, Call) and all(
        isinstance(attributes_of(value).get(name), dict) for name in (PARAMETERS, BUFFERS, MODULES)
    )


def attributes_of(model: Call) -> dict[Any, Any]:
    """Return the attributes of a pickled object; of a compiled model, those that it would have when made again."""
    if class_of(model) == COMPILED and isinstance(model.arguments, tuple) and model.arguments:
        return {PARAMETERS: {}, BUFFERS: {}, MODULES: {"_orig_mod": model.arguments[0]}}
    return model.attributes


def class_of(value: Any) -> str:
    """Return the name of a pickled object's class or maker, short enough to be shown."""
    function = value.function if isinstance(value, Call) else None
    return function.path[:100] if isinstance(function, Name) else "unknown class"


def state_dict_of(model: Call, budget: Iterator[int]) -> dict[str, Any]:
    """Return what `model.state_dict()` would: {key: tensor}, parameters and buffers first, then the submodules.

    Args:
        model: see `is_model`.
        budget: what is left of `MAX_ENTRIES`. Submodules that hold each other would never end.

    Raises:
        UnsupportedSourceError: The models of the file are larger than any, or have endless names.
    """
    found: dict[str, Any] = {}
    waiting = [("", model)]
    while waiting:
        prefix, module = waiting.pop()
        held = attributes_of(module)
        unsaved = _names(held.get(UNSAVED))
        inner = []
        for kind in (PARAMETERS, BUFFERS, MODULES):
            for name, value in held[kind].items():
                key = f"{prefix}{name}" if isinstance(name, str) else ""
                if next(budget, None) is None or len(key) > MAX_KEY:
                    raise UnsupportedSourceError("a pickled model that is larger, or nested deeper, than any detector")
                if kind == MODULES:
                    inner += [(f"{key}.", value)] if is_model(value) else []
                elif value is not None and not (kind == BUFFERS and name in unsaved):
                    found[key] = value
        waiting += reversed(inner)
    return found


def _names(value: Any) -> set[str]:
    """Return the texts in a pickled set: a list, or in older pickles a call with a list."""
    if isinstance(value, Call) and isinstance(value.arguments, tuple) and value.arguments:
        value = value.arguments[0]
    return {name for name in value if isinstance(name, str)} if isinstance(value, list) else set()


def plain_settings(value: Any, budget: Iterator[int], nesting: int = MAX_NESTING) -> Any:
    """Return a pickled config as plain values: what OmegaConf wraps, or the attributes of an object, without it.

    Args:
        value: from `read_pickle`.
        budget: one step for every value.
        nesting: how deep values may lie, wrappers included.

    Returns:
        Numbers, texts, lists, and dictionaries by text; None for anything else, and for what lies too deep.

    Source: OmegaConf's containers keep their nodes under `_content`, its nodes their value under `_val`.
    """
    if isinstance(value, (bool, int, float, str)):
        return value
    if nesting == 0 or next(budget, None) is None:
        return None
    if isinstance(value, Call):
        held = value.attributes
        inner = next((held[name] for name in ("_val", "_content") if name in held), held)
        return plain_settings(inner, budget, nesting - 1)
    if isinstance(value, dict):
        named = {key: item for key, item in value.items() if isinstance(key, str)}
        return {key: plain_settings(item, budget, nesting - 1) for key, item in named.items()}
    if isinstance(value, (list, tuple)):
        return [plain_settings(item, budget, nesting - 1) for item in value]
    return None
