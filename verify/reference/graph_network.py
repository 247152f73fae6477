"""Where the network lies in a stored graph: between the image and the outputs.

It is found by its variables, not by the names of operations: the image is what the first convolution takes, an output
is what the bias of a prediction is added to. So it does not matter who exported the graph, nor what is around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from verify.errors import GraphError, ParityError
from verify.reference.graph_files import StoredGraph, node_of
from verify.reference.graph_functions import Node

VARIABLES = ("VarHandleOp", "VariableV2", "Variable")
CONSTANT = "Const"  # what a variable becomes in a frozen graph
PASSING = ("Identity", "ReadVariableOp", "StopGradient")  # between a variable and where it is used
ADDITIONS = ("BiasAdd", "BiasAddV1", "Add", "AddV2")
# What may run. To forbid what has a state would not do: ReadFile and DebugIdentity, which can write, have none.
ARITHMETIC = """
Const Identity IdentityN StopGradient Snapshot Cast EnsureShape ZerosLike OnesLike Fill Range Shape ShapeN Size Rank
Reshape Squeeze ExpandDims Transpose Pack Unpack Concat ConcatV2 Split SplitV Slice StridedSlice Gather GatherV2 Tile
BroadcastTo BroadcastArgs Pad PadV2 SpaceToBatchND BatchToSpaceND SpaceToDepth DepthToSpace

Add AddV2 AddN Sub Mul Div DivNoNan RealDiv FloorDiv FloorMod Maximum Minimum ClipByValue Neg Abs Reciprocal Square
SquaredDifference Sqrt Rsqrt Pow Exp Expm1 Log Log1p Sum Mean Max Min Prod MatMul BatchMatMulV2 Einsum Select SelectV2
Greater GreaterEqual Less LessEqual Equal NotEqual LogicalAnd LogicalOr LogicalNot

Conv2D DepthwiseConv2dNative Conv2DBackpropInput BiasAdd BiasAddV1 FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3
MaxPool MaxPoolV2 AvgPool ResizeNearestNeighbor ResizeBilinear
Sigmoid Tanh Softplus Softmax Relu Relu6 LeakyRelu Elu Selu
"""
FLOAT32 = 1  # DT_FLOAT
TRAINING = "a training graph: read, not run"

Official = Callable[[Iterable[str]], Mapping[str, str]]  # names -> {official name of a variable: its name}


def as_they_are(names: Iterable[str]) -> dict[str, str]:
    """Take every name for a variable's official one."""
    return {name: name for name in names}


@dataclass(frozen=True)
class Outline:
    """What must be in a graph.

    Attributes:
        backbone: scope of the backbone: "efficientnet-b0".
        levels: pyramid levels, finest first.
        image_size: (height, width) where the graph does not say its own.
        heads: "object_detection", "segmentation" or both.
    """

    backbone: str
    levels: tuple[int, ...]
    image_size: tuple[int, int]
    heads: tuple[str, ...] = ("object_detection",)

    @property
    def predictions(self) -> dict[str, tuple[int | None, ...]]:
        """{scope of a prediction: the levels of its outputs}; the classes of pixels belong to no level."""
        found: dict[str, tuple[int | None, ...]] = {}
        if "object_detection" in self.heads:
            found |= dict.fromkeys(("class_net/class-predict", "box_net/box-predict"), self.levels)
        if "segmentation" in self.heads:
            found[f"segmentation_head/conv2d_transpose_{len(self.levels) - 1}"] = (None,)
        return found


class NetworkPart:
    """Where the network lies in a graph.

    Attributes:
        graph: all of it.
        images: what the first convolution takes, "node:output".
        outputs: {scope of a prediction: tensors in the order of the graph}.
        nodes: what computes the outputs from the images and the variables, by name.
        variables: {tensor that holds a variable's value: the variable's node}.
        official: {name of a variable's node: official name}.

    Raises:
        GraphError: It is a training graph, or cannot be run safely.
        ParityError: It has another number of outputs.
    """

    def __init__(self, graph: StoredGraph, outline: Outline, official: Official) -> None:
        self.graph = graph
        names = [node.name for node in graph.nodes.values() if node.op in VARIABLES or node.op == CONSTANT]
        self.official = {given: name for name, given in official(names).items()}
        self._require_no_gradients()
        self.images = self._images(f"{outline.backbone}/stem/conv2d/kernel")
        self.outputs = {scope: self._predictions(scope, len(levels)) for scope, levels in outline.predictions.items()}
        wanted = [tensor for tensors in self.outputs.values() for tensor in tensors]
        nodes = graph.ancestors(wanted, frozenset([self.images]))
        self.variables = {
            tensor: variable
            for node in nodes.values()
            for tensor in node.input
            if (variable := self._variable(tensor)) is not None and variable.op in VARIABLES
        }
        self.nodes = graph.ancestors(wanted, frozenset([self.images, *self.variables]))
        self._require_inference()

    def _require_no_gradients(self) -> None:
        if any(node.op.endswith("BackpropFilter") for node in self.graph.nodes.values()):
            raise GraphError(f"{self.graph.name} is {TRAINING}: it computes gradients")

    def _images(self, kernel: str) -> str:
        inputs = {
            node.input[0] for node in self.graph.nodes.values() if node.op == "Conv2D" and self._uses(node, kernel)
        }
        if len(inputs) != 1:
            found = "no convolution that takes" if not inputs else f"{len(inputs)} networks that share"
            raise GraphError(f"{self.graph.name} has {found} {kernel}: not an EfficientDet's inference graph")
        return str(inputs.pop())

    def _predictions(self, scope: str, count: int) -> list[str]:
        """Return so many outputs of a prediction."""
        bias = f"{scope}/bias"
        nodes = self.graph.nodes.values()
        found = [f"{node.name}:0" for node in nodes if node.op in ADDITIONS and self._uses(node, bias)]
        if len(found) != count:
            raise ParityError(
                f"{self.graph.name} has {len(found)} outputs with {bias}; the model has {count}: it is another "
                "network's graph; add --no-graph to verify without it"
            )
        return found

    def _uses(self, node: Node, name: str) -> bool:
        variables = (self._variable(tensor) for tensor in node.input[1:])
        return any(variable is not None and self.official[variable.name] == name for variable in variables)

    def _variable(self, tensor: str) -> Node | None:
        """Return the variable, or the constant, whose value a tensor is."""
        for _ in self.graph.nodes:  # a damaged graph may go in a circle
            node = self.graph.nodes.get(node_of(tensor))
            if node is None or node.name in self.official:
                return node
            if node.op not in PASSING or not node.input:
                return None
            tensor = node.input[0]
        return None

    def _require_inference(self) -> None:
        name, behind = self.graph.name, self.graph.ancestors([self.images])
        # TensorFlow's default for a batch norm is training, and files may leave defaults out.
        trains = any(
            node.op.startswith("FusedBatchNorm") and ("is_training" not in node.attr or node.attr["is_training"].b)
            for node in self.nodes.values()
        )
        if trains:
            raise GraphError(f"{name} is {TRAINING}: its batch norms use the statistics of the batch")
        if not any(node.op.startswith("Placeholder") for node in behind.values()):
            raise GraphError(f"{name} is {TRAINING}: it has no placeholder for images")
        harmless = frozenset(ARITHMETIC.split())
        for node in self.nodes.values():
            if node.op not in harmless:
                raise GraphError(
                    f"{name} has the operation {node.name} of type {node.op}; between image and outputs a network "
                    "needs arithmetic alone, so the graph is not run"
                )
            if node.op == "Conv2D" and node.attr["T"].type != FLOAT32:
                raise GraphError(f"{name} does not compute in float32 ({node.name}), so its outputs cannot be compared")
