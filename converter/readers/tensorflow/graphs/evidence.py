"""What TensorFlow's graph beside or inside a source shows of the network, in official hyperparameters.

A hyperparameter is there only if all places of the graph that show it agree, and each shows it clearly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from converter.errors import SourceError
from converter.readers.tensorflow.graphs.flow import Finding
from converter.readers.tensorflow.graphs.fusion_evidence import NODES, PER_CHANNEL, fusion_evidence
from converter.readers.tensorflow.graphs.input_evidence import input_evidence
from converter.readers.tensorflow.graphs.layer_evidence import layer_evidence
from converter.readers.tensorflow.graphs.nodes import Graph, attribute, read_graphs, shapes
from converter.source import GraphEvidence
from effdet_torch.file_format import GRAPH
from effdet_torch.untrusted.files import map_file

_FINDERS = (layer_evidence, fusion_evidence, input_evidence)
_METHOD = "fpn_weight_method"
DECLARATIONS = ("VarHandleOp", "VariableV2", "Variable")


def graph_of(path: Path, container: tuple[int, ...]) -> Callable[[], GraphEvidence]:
    """Return a function that reads a file's graph once, when it is first called.

    It never fails: a file that cannot be read shows nothing, and the notes say why.

    Args:
        path: the file.
        container: what it is, `GRAPH_DEF`, `META_GRAPH_DEF` or `SAVED_MODEL` of the module `nodes`.
    """
    return cache(lambda: _read(path, container))


def read_evidence(data: memoryview, container: tuple[int, ...], origin: str) -> GraphEvidence:
    """Return what a graph shows.

    Args:
        data: a GraphDef, MetaGraphDef or SavedModel.
        container: which of them.
        origin: what to call it.

    Raises:
        CorruptFileError: The bytes are something else, or damaged.
    """
    graphs = list(read_graphs(data, container))
    findings = [finding for graph in graphs for find in _FINDERS for finding in find(graph)]
    return replace(_agreed(origin, findings), shapes=_variables(graphs))


def _variables(graphs: Iterable[Graph]) -> dict[str, tuple[int, ...]]:
    """Return {variable: shape} of everything that a graph declares."""
    variables = {}
    for graph in graphs:
        for name, node in graph.nodes.items():
            if node.operation in DECLARATIONS and (known := shapes(attribute(node.message, "shape"))):
                variables[name] = known[0]
    return variables


def _read(path: Path, container: tuple[int, ...]) -> GraphEvidence:
    origin = f"{GRAPH}{path.name})"
    try:
        return read_evidence(map_file(path), container, origin)
    except (SourceError, OSError) as error:
        return GraphEvidence(origin, notes=(f"{origin} cannot be read ({error}), so it shows nothing of the network",))


def _agreed(origin: str, findings: Iterable[Finding]) -> GraphEvidence:
    """Keep what all findings say alike."""
    places = defaultdict[str, dict[str, Finding]](dict)
    for finding in findings:
        places[finding.hparam].setdefault(repr(finding.value), finding)
    hparams: dict[str, Any] = {}
    nodes: dict[str, str] = {}
    notes: list[str] = []
    for hparam, different in places.items():
        first, *others = different.values()
        if others or first.value is None:
            shown = " and ".join(f"{_shown(each.value)} ({each.node})" for each in different.values())
            notes.append(f"{origin}: {hparam} is not clear: {shown}")
        else:
            hparams[hparam], nodes[hparam] = first.value, first.node
    _join(hparams, nodes)
    return GraphEvidence(origin, hparams, nodes, tuple(notes))


def _shown(value: Any) -> str:
    return "an unknown computation" if value is None else str(value)


def _join(hparams: dict[str, Any], nodes: dict[str, str]) -> None:
    """Put the parts of hyperparameters together that different places show; drop those that lack a part."""
    per_channel, cell = hparams.pop(PER_CHANNEL, None), hparams.pop(NODES, None)
    nodes.pop(PER_CHANNEL, None)
    shown = nodes.pop(NODES, "")
    method = hparams.get(_METHOD)
    if method is None:
        return
    if method != "sum" and per_channel is None:
        del hparams[_METHOD], nodes[_METHOD]
        return
    if method != "sum" and per_channel:
        method = hparams[_METHOD] = f"channel_{method}"
    if cell is not None:
        hparams["fpn_config"] = {"nodes": cell, "weight_method": method}
        nodes["fpn_config"] = shown
