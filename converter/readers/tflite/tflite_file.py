"""TensorFlow Lite files as a source: folded layers, turned back into official variables when they are read.

A batch norm that was folded into the layer before it becomes one that only adds the bias; the network is the same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from converter.errors import CorruptFileError, SourceError, UnsupportedSourceError
from converter.identify.families import DETECTOR
from converter.identify.own_metadata import parse_metadata, with_metadata
from converter.plan.expand import Plan
from converter.readers.tflite.content.graph import Graph
from converter.readers.tflite.content.schema import Model, Subgraph, read_model
from converter.readers.tflite.dialect import load_dialect
from converter.readers.tflite.names import require_names
from converter.readers.tflite.placement import make, place
from converter.readers.tflite.stated import BLOCKS, evidence_of, kernel_types, read_stated
from converter.readers.tflite.strangers import refuse
from converter.readers.tflite.walk.found import NetworkFound
from converter.readers.tflite.walk.heads import DETECTION
from converter.readers.tflite.walk.network import find_network
from converter.source import SourceFacts, VariableInfo, VariableSource
from effdet_torch.config import get_config, variants_with
from effdet_torch.errors import ConfigError
from effdet_torch.file_format import METADATA_KEY
from effdet_torch.untrusted.files import map_file

KIND = "TensorFlow Lite model"
ONE_COPY = "a TensorFlow Lite file holds one copy of the network, and does not say whether it is the average"


class TfliteFile(VariableSource):
    """The network of a TensorFlow Lite file, as the official variables that compute the same.

    Of batch norms only the bias is kept, which is folded into their layer.

    Args:
        path: the file.

    Attributes:
        graph_number: of the graph that holds the network.

    Raises:
        CorruptFileError: The file is damaged or cut off.
        UnsupportedSourceError: It does not hold an EfficientDet, or one whose parts are ambiguous.
    """

    def __init__(self, path: Path) -> None:
        data = map_file(path)
        try:
            model = read_model(data)
            self.graph_number, self._network = _find(model)
            plan = _plan(self._network)
            self._recipes = place(self._network, plan, load_dialect())
            named = require_names(self._network, plan, self._recipes)
            stated = read_stated(path, self._network, model, data)
        except CorruptFileError as error:
            raise CorruptFileError(
                f"{path}: this is a {KIND}, but damaged or cut off: {error}. Download or copy it again."
            ) from error
        except (ConfigError, UnsupportedSourceError) as error:
            raise UnsupportedSourceError(
                f"{path}: this is a {KIND}, but not an EfficientDet that can be read: {error}."
            ) from error
        variables = {name: VariableInfo("float32", recipe.shape) for name, recipe in self._recipes.items()}
        evidence = evidence_of(path.name, self._network)
        facts = SourceFacts(
            KIND,
            path,
            path.absolute().parent,
            raw_reason=ONE_COPY,
            is_folded=True,
            notes=(named, f"class and box heads are told apart by {self._network.told_apart}", *stated.notes),
            given=stated.given,
            provenance={"precision": self.precision},
            graph=lambda: evidence,
        )
        if document := model.metadata.get(METADATA_KEY):  # effdet-export wrote the file
            own = with_metadata(facts, parse_metadata(path, bytes(document).decode("utf-8", "replace")))
            facts = replace(own, given=(*own.given, BLOCKS), provenance={**own.provenance, **facts.provenance})
        super().__init__(facts, variables)

    def read(self, name: str) -> NDArray[Any]:
        """Return one variable; without a checksum in the file, damaged values cannot be detected."""
        try:
            return make(self._network.graph, self._recipes[name])
        except SourceError as error:
            raise type(error)(f"{self.path}: {name}: {error}.") from error

    @property
    def network(self) -> NetworkFound:
        """Where the network is in the graph."""
        return self._network

    @property
    def precision(self) -> Literal["float32", "float16", "int8"]:
        """The number format of the kernels: the coarsest that one of them has."""
        types = kernel_types(self._network)
        return "int8" if types["int8"] or types["uint8"] else "float16" if types["float16"] else "float32"


def _find(model: Model) -> tuple[int, NetworkFound]:
    """Return the number of the graph with the network, and that: of several, the one that makes detections."""
    graphs = sorted(enumerate(model.graphs), key=lambda item: not _detects(item[1]))
    if not graphs:
        raise CorruptFileError("it has no graph")
    number, subgraph = graphs[0]
    refuse(subgraph)
    graph = Graph(subgraph)
    images = [index for index in graph.inputs if len(graph.tensor(index).shape) == 4]
    if len(images) != 1:
        raise UnsupportedSourceError(f"{len(images)} inputs with 4 axes; expected one, the image")
    outputs = [named for _, at, named in model.signatures if at == number]
    ordered = [graph.plain(tensor) for _, tensor in sorted(outputs[0].items(), key=_number)] if outputs else []
    return number, find_network(graph, images[0], ordered, load_dialect().heads)


def _number(output: tuple[str, int]) -> tuple[int, str]:
    digits = "".join(filter(str.isdecimal, output[0]))[:9]
    return int(digits or 0), output[0]


def _detects(subgraph: Subgraph) -> bool:
    return any(operation.kind == DETECTION for operation in subgraph.operations)


def _plan(network: NetworkFound) -> Plan:
    """Return the plan with just the layers of a network."""
    graph, heads, pyramid = network.graph, network.heads, network.pyramid
    nodes = pyramid.cells[0]
    config = get_config(
        (*variants_with(network.backbone), "d7x")[0],
        backbone=network.backbone,
        fpn_channels=graph.tensor(nodes[0].operations[-1].inputs[1]).shape[0],
        fpn_cells=len(pyramid.cells),
        fpn_name=pyramid.cell_name,
        head_repeats=len(heads["class"][pyramid.levels[0]].repeats),
        min_level=pyramid.levels[0],
        max_level=pyramid.levels[-1],
        fusion=network.fusion,
        separable_conv=len(nodes[0].operations) == 2,
        conv_bn_act_pattern=nodes[0].activates_last,
        apply_bn_for_resampling=True,
        num_classes=network.classes,
        num_scales=network.anchors,
        aspect_ratios=(1.0,),
        redundant_bias=True,
    )
    return DETECTOR.plan(config)
