"""Which network in a PyTorch file is the raw copy, and which its averages, by the words in their keys."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from converter.errors import UnsupportedSourceError
from converter.readers.pytorch.find_network import SAVE, Held, Network, has_tensors
from converter.readers.pytorch.pickled_model import class_of

WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # "modelEMA" and "model_ema" are two words each, "schema" is one
AVERAGES = re.compile(r"ema|swa|shadows?|averag\w*", re.IGNORECASE)
COUNTER = "n_averaged"  # which torch.optim.swa_utils.AveragedModel stores beside the network
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")


@dataclass(frozen=True)
class Copies:
    """The copies of one network.

    Attributes:
        by_view: {"raw" or "ema": network}.
        notes: what the user should know about the choice.
        unread: where something that is called averages, but is no network, lies; None if there is nothing, or if the
            averages were found.
    """

    by_view: Mapping[str, Network]
    notes: tuple[str, ...] = ()
    unread: str | None = None


def is_averages(parts: tuple[str, ...]) -> bool:
    """Whether the name of a place says that averages of training lie there."""
    return any(AVERAGES.fullmatch(word) for part in parts for word in WORD.findall(part))


def choose_copies(path: Path, networks: list[Network], dictionaries: list[Held]) -> Copies:
    """Return one network as the raw copy, and one as its averages where there is one.

    Args:
        path: for error texts.
        networks: from `find_networks`; the same values in two places count once.
        dictionaries: all of the file, in which averages of another form may lie.

    Raises:
        UnsupportedSourceError: There are several networks, and their keys do not say which is the one to convert.
    """
    named: dict[str, list[Network]] = {"raw": [], "ema": []}
    common = _common_parts(networks)
    for network in networks:
        alike = named["ema" if _holds_averages(network, common) else "raw"]
        if not any(network.equals(other) for other in alike):
            alike.append(network)
    named["raw"], notes = _without_parameter_sets(named["raw"])
    if max(map(len, named.values())) > 1:
        places = " and ".join(map(str, [*named["raw"], *named["ema"]]))
        called = f" (called averages: {' and '.join(map(str, named['ema']))})" if named["ema"] else ""
        raise UnsupportedSourceError(
            f"{path}: {sum(map(len, named.values()))} networks, of which it is not clear which one to convert{called}: "
            f"under {places}. {SAVE}"
        )
    found = {view: alike[0] for view, alike in named.items() if alike}
    if len(found) == 2 and _lacks_statistics(found["ema"]):
        found["ema"] = _with_statistics(found["ema"], found["raw"])
        notes.append(
            f"the averages under {found['ema']} hold no batch norm statistics: those of the raw copy are used, as "
            "training does when it evaluates its averages"
        )
    return Copies(found, tuple(notes), None if "ema" in found else _unread_averages(found["raw"], dictionaries))


def _without_parameter_sets(networks: list[Network]) -> tuple[list[Network], list[str]]:
    """Leave out what has the parameters' names, but no statistics, beside whole networks: moments, gradients."""
    whole = [network for network in networks if not _lacks_statistics(network)]
    if not whole:
        return networks, []
    rest = [network for network in networks if _lacks_statistics(network)]
    return whole, [f"what lies under {other} has no batch norm statistics: it is no network" for other in rest]


def _common_parts(networks: list[Network]) -> int:
    """Return how many first parts all names share: these say nothing about the differences between networks."""
    if len(networks) == 1:
        return 0
    columns = zip(*map(_parts, networks), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def _parts(network: Network) -> tuple[str, ...]:
    """Return the words of a network's name: its place, the class of a pickled model, the modules around it."""
    model = network.held.model
    classes = [] if model is None else [class_of(model).rpartition(".")[2]]  # "ModelEmaV2" of timm
    return (*network.place, *classes, *network.prefix.split(".")[:-1])


def _holds_averages(network: Network, common: int) -> bool:
    outer = network.prefix.split(".")[:-1]
    counters = {".".join([*outer[:depth], COUNTER]) for depth in range(len(outer))}
    return is_averages(_parts(network)[common:]) or not counters.isdisjoint(network.beside)


def _lacks_statistics(network: Network) -> bool:
    return not any(key.endswith(STATISTICS) for key in network.tensors)


def _with_statistics(averages: Network, raw: Network) -> Network:
    statistics = {key: tensor for key, tensor in raw.tensors.items() if key.endswith(STATISTICS)}
    return replace(averages, tensors=averages.tensors | statistics)


def _unread_averages(raw: Network, dictionaries: list[Held]) -> str | None:
    """Return a place that is called averages and holds tensors of another form, or of unknown names."""
    for key in raw.beside:
        if is_averages((key,)):
            return key
    for held in dictionaries:
        for place in held.places:
            if is_averages(place) and (has_tensors(held) or held.model is not None):
                return " / ".join(place)
    return None
