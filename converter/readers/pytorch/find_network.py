"""Find the networks in what a PyTorch file holds, by their own keys: whatever a training script called their place.

A place is the keys that lead to a dictionary, from the outside in. A pickled model counts as its state_dict, another
pickled object as the dictionary of its attributes, a list as a dictionary by position.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converter.errors import UnsupportedSourceError
from converter.formats.pickled import Call, Name
from converter.identify.recognition import look_alike
from converter.readers.pytorch.pickled_model import MAX_ENTRIES, class_of, is_model, state_dict_of
from converter.readers.pytorch.stored_tensor import StoredTensor
from effdet_torch.errors import listed

Tensors = dict[str, StoredTensor]
Place = tuple[str, ...]
CONTAINERS = (dict, list, tuple, Call)

SAVE = "Save the state_dict of the one network to convert: torch.save(model.state_dict(), ...)."
SAVE_PLAIN = "Save plain tensors: .dequantize(), .to_dense(), .resolve_conj(), .resolve_neg()."
MAX_DEPTH = 3  # keys that lead to a network
MAX_PLACES = 8  # of one dictionary, and of networks: more are a mistake or an attack
MAX_TENSORS = 5_000  # of D7x: 2114
# Modules that PyTorch puts between a module and its parts; a state_dict may have their names anywhere.
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_MAKERS = ("torch._utils._rebuild", "torch._tensor._rebuild")


@dataclass(frozen=True)
class Held:
    """A dictionary in the file.

    Attributes:
        content: what it holds, by key.
        places: all places where it lies, the outermost first.
        around: the dictionary in which it lies; {} for the outermost one.
        model: the pickled model whose state_dict it is.
    """

    content: Mapping[Any, Any]
    places: list[Place]
    around: Mapping[Any, Any]
    model: Call | None = None


@dataclass(frozen=True)
class Network:
    """The tensors of one network.

    Attributes:
        place: the keys that lead to its dictionary.
        prefix: what its keys begin with: "model." or nothing.
        tensors: by their keys without the prefix.
        beside: keys of the tensors in the same dictionary that belong to no network.
        held: the dictionary.
    """

    place: Place
    prefix: str
    tensors: Tensors = field(repr=False)
    beside: tuple[str, ...] = field(repr=False)
    held: Held = field(repr=False)

    def __str__(self) -> str:
        return repr(" / ".join(filter(None, (*self.place, self.prefix))))[:200]

    def equals(self, other: Network) -> bool:
        """Whether both have the very same stored values."""
        return self.tensors.keys() == other.tensors.keys() and all(
            (mine.storage is theirs.storage and mine.offset == theirs.offset)
            and (mine.shape, mine.stride, mine.dtype) == (theirs.shape, theirs.stride, theirs.dtype)
            for mine, theirs in ((tensor, other.tensors[key]) for key, tensor in self.tensors.items())
        )


def find_networks(path: Path, content: Any, last: Collection[str]) -> tuple[list[Network], list[Held]]:
    """Return the networks in a file, and all dictionaries in it, the outermost first.

    Args:
        path: for error texts.
        content: what `read_torch_file` or `read_safetensors_file` returned.
        last: the keys by one of which a network is recognised: the last tensors of its heads.

    Raises:
        UnsupportedSourceError: There is none, or one that is not a plain state_dict; the text says what there is.
    """
    try:
        dictionaries = list(_dictionaries(content))
    except UnsupportedSourceError as error:
        raise UnsupportedSourceError(f"{path}: {error}. {SAVE}") from error
    networks: list[Network] = []
    for held in dictionaries:
        networks += _networks_in(path, held, last)
        if len(networks) > MAX_PLACES:
            raise UnsupportedSourceError(f"{path}: more than {MAX_PLACES} networks. {SAVE}")
    if not networks:
        raise UnsupportedSourceError(
            f"{path}: not a state_dict of an EfficientDet with the keys of effdet: no key ends in {' or '.join(last)}; "
            f"{_describe(dictionaries, content)}. {_next_step(dictionaries)}"
        )
    return networks, dictionaries


def has_tensors(held: Held) -> bool:
    """Whether a dictionary holds tensors itself."""
    return any(isinstance(value, StoredTensor) for value in held.content.values())


def _dictionaries(content: Any) -> Iterator[Held]:
    """Yield every dictionary of a file once. One that lies in several places, or in itself, is searched once."""
    found: dict[int, Held] = {}
    budget = iter(range(MAX_ENTRIES))
    level: list[tuple[Place, Any, Mapping[Any, Any]]] = [((), content, {})]
    for _ in range(MAX_DEPTH + 1):
        inner = []
        for place, value, around in level:
            if known := found.get(id(value)):
                known.places.extend([place] if len(known.places) < MAX_PLACES else [])
                continue
            model = value if is_model(value) else None
            items = _items(value) if model is None else state_dict_of(model, budget)
            found[id(value)] = Held(items, [place], around, model)
            if model is None:
                nested = ((key, item) for key, item in items.items() if isinstance(item, CONTAINERS))
                inner += [((*place, _shown(key)), item, items) for key, item in nested]
        level = inner
    yield from found.values()


def _items(value: Any) -> Mapping[Any, Any]:
    if isinstance(value, dict):
        return value
    if isinstance(value, Call):
        return value.attributes
    places = enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {number: item for number, item in places if isinstance(item, (*CONTAINERS, StoredTensor))}


def _shown(key: Any) -> str:
    return str(key)[:80] if isinstance(key, (str, int)) else type(key).__name__


def _networks_in(path: Path, held: Held, last: Collection[str]) -> list[Network]:
    """Return the networks whose keys a dictionary has itself, once for each place."""
    tensors: Tensors = {}
    makers: dict[str, str] = {}
    for key, value in held.content.items():
        if isinstance(key, str):
            plain = _plain_key(key)
            plain = key if plain in held.content else plain  # both a module and its wrapper: two networks
            if isinstance(value, StoredTensor):
                tensors[plain] = value
            elif maker := _maker(value):
                makers[plain] = maker
    ends = ((key, name) for key in tensors for name in last if key == name or key.endswith(f".{name}"))
    prefixes = list(dict.fromkeys(key.removesuffix(name) for key, name in ends))
    if not prefixes:
        return []
    if len(prefixes) > MAX_PLACES:
        raise UnsupportedSourceError(f"{path}: more than {MAX_PLACES} networks. {SAVE}")
    parts: dict[str | None, Tensors] = defaultdict(dict)
    for key, tensor in tensors.items():
        prefix = _prefix_of(key, prefixes)
        parts[prefix][key.removeprefix(prefix or "")] = tensor
    for key, maker in makers.items():
        if _prefix_of(key, prefixes) is not None:
            raise UnsupportedSourceError(
                f"{path}: {key[:200]!r} is not a plain tensor: it is created by {maker}. {SAVE_PLAIN}"
            )
    for prefix in prefixes:
        if len(parts[prefix]) > MAX_TENSORS:
            raise UnsupportedSourceError(f"{path}: {len(parts[prefix])} tensors; expected an EfficientDet. {SAVE}")
    beside = tuple(parts[None])
    return [Network(place, prefix, parts[prefix], beside, held) for place in held.places for prefix in prefixes]


def _prefix_of(key: str, prefixes: list[str]) -> str | None:
    """Return the longest prefix that a key has; None if it has none of them."""
    return max((prefix for prefix in prefixes if key.startswith(prefix)), key=len, default=None)


def _plain_key(key: str) -> str:
    for wrapper in WRAPPERS:
        if wrapper in key:
            key = key.replace(wrapper, "")
    return key


def _maker(value: Any) -> str | None:
    """Return the PyTorch function that would create a tensor of another kind: quantized, sparse, without values."""
    is_tensor = isinstance(value, Call) and isinstance(value.function, Name) and value.function.path.startswith(_MAKERS)
    return class_of(value) if is_tensor else None


def _next_step(dictionaries: list[Held]) -> str:
    """Return what a file without a network probably holds instead, and what to do."""
    found = look_alike(str(key) for held in dictionaries if has_tensors(held) for key in held.content)
    return f"It looks like {found[0]}, which is not supported. {found[1]}" if found else SAVE


def _describe(dictionaries: list[Held], content: Any) -> str:
    """Return what a file without a network holds."""
    for held in dictionaries:
        names = (key for key, value in held.content.items() if isinstance(key, str) and isinstance(value, StoredTensor))
        if (first := next(names, None)) is not None:
            begins = f"it begins with {first[:80]!r}"
            return begins if held.model is None else f"a pickled model ({class_of(held.model)}); {begins}"
    if models := [held.model for held in dictionaries if held.model is not None]:
        return f"a pickled model ({class_of(models[0])}) without tensors"
    values = [content, *_items(content).values()]
    if opaque := [class_of(value) for value in values if isinstance(value, Call) and not value.attributes]:
        named = listed(opaque, 3)
        return f"it holds no tensors, but what only PyTorch can rebuild, by running code ({named}): a pickled model?"
    return "it holds no tensors"
