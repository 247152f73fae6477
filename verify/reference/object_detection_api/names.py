"""The API's names of the layers that the reference computes under their official ones, read off the stored names.

Nothing is counted or derived from a variant: blocks, nodes and their order are those that the checkpoint has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cached_property

from verify.errors import ReferenceModelError

PREDICTOR = "WeightSharedConvolutionalBoxPredictor"
ENDPOINTS = ("stack_0/block_0", "stack_1/block_1", "stack_2/block_1", "stack_4/block_2", "stack_6/block_0")  # P1 to P5
_WIDTH = {"conv2d": "1x1_pre_sample/conv", "bn": "1x1_pre_sample/batchnorm"}
_COMBINE = {"": "post_combine", "conv": "post_combine/separable_conv", "bn": "post_combine/batchnorm"}


class Names:
    """Translates official scopes.

    Args:
        stored: the API's full names of all variables.
    """

    def __init__(self, stored: Iterable[str]) -> None:
        self._stored = sorted(stored)

    @cached_property
    def blocks(self) -> list[str]:
        """The scopes of the backbone's blocks, in execution order."""
        found = {match[0] for match in map(re.compile(r"stack_\d+/block_\d+").match, self._stored) if match}
        return sorted(found, key=_numbers)

    @cached_property
    def nodes(self) -> list[str]:
        """The scopes of the nodes of all cells, in execution order."""
        pattern = re.compile(r"([^/]+/bifpn/node_\d+/\d+_(?:dn|up)_lvl_\d+)/post_combine/")
        return sorted({match[1] for match in map(pattern.match, self._stored) if match}, key=_numbers)

    @cached_property
    def cells(self) -> list[list[str]]:
        """The nodes of every cell: a cell begins with the way down."""
        cells = dict[str, list[str]]()
        for node in self.nodes:
            cells.setdefault(node.rsplit("/", 1)[1].partition("_")[0], []).append(node)
        return list(cells.values())

    @cached_property
    def levels(self) -> list[int]:
        """The levels of the pyramid, finest first."""
        return sorted({_numbers(node)[-1] for node in self.cells[0]}) if self.cells else []

    @property
    def feature_blocks(self) -> list[int]:
        """The numbers of the blocks whose outputs are P1 to P5."""
        return [self.blocks.index(block) for block in ENDPOINTS if block in self.blocks]

    def scope(self, official: str) -> str:
        """Return the API's scope of an official one, or of the activation after it.

        Raises:
            ReferenceModelError: The checkpoint has no such layer.
        """
        scope = official.removesuffix("-act")
        for pattern, translate in self._rules:
            if match := re.fullmatch(pattern, scope):
                try:
                    return translate(*match.groups("")) + official[len(scope) :]
                except LookupError as error:
                    raise ReferenceModelError(f"{official}: the checkpoint of the API has no such layer") from error
        raise ReferenceModelError(f"{official}: the API has no such layer")

    @cached_property
    def _rules(self) -> tuple[tuple[str, Callable[..., str]], ...]:
        return (
            (r"efficientnet-\w+/stem", lambda: "stem"),
            (r"efficientnet-\w+/stem/conv2d", lambda: "stem_conv2d"),
            (r"efficientnet-\w+/stem/tpu_batch_normalization", lambda: "stem_bn"),
            (r"efficientnet-\w+/blocks_(\d+)(?:/(.+))?", self._block),
            (r"resample_p(\d+)(?:/(\w+))?", self._extra),
            (r"fpn_cells/cell_(\d+)/fnode(\d+)", self._node),
            (r"fpn_cells/cell_(\d+)/fnode(\d+)/fuse", lambda *place: f"{self._node(*place)}/combine"),
            (r"fpn_cells/cell_(\d+)/fnode(\d+)/resample_\d+_(\d+)_\d+(?:/(\w+))?", self._input),
            (r"fpn_cells/cell_(\d+)/fnode(\d+)/op_after_combine\d+(?:/(\w+))?", self._after),
            (r"(class|box)_net/\w+-(\d+)(?:-bn-(\d+))?", self._head),
            (r"(class|box)_net/\w+-predict", self._prediction),
        )

    def _block(self, number: str, part: str) -> str:
        block = self.blocks[int(number)]
        expands = ["expand"] if f"{block}/expand_conv2d/kernel" in self._stored else []
        convs = [f"{name}_conv2d" for name in (*expands, "project")]
        norms = [f"{name}_bn" for name in (*expands, "depthwise", "project")]
        numbered = {
            **{"conv2d" + (f"_{place}" if place else ""): name for place, name in enumerate(convs)},
            **{"tpu_batch_normalization" + (f"_{place}" if place else ""): name for place, name in enumerate(norms)},
            "depthwise_conv2d": "depthwise_conv2d",
            "se/conv2d": "se_reduce_conv2d",
            "se/conv2d_1": "se_expand_conv2d",
            "se": "se_excite",
        }
        return f"{block}/{numbered[part]}" if part else block

    def _extra(self, level: str, part: str) -> str:
        pyramid, number = self.nodes[0].split("/node_")[0], int(level) - 6
        scope = f"{pyramid}/node_{number:02d}/0_up_lvl_{level}/input_0_up_lvl_{int(level) - 1}"
        return f"{scope}/{_WIDTH[part]}" if part else scope

    def _node(self, cell: str, node: str) -> str:
        return self.cells[int(cell)][int(node)]

    def _input(self, cell: str, node: str, offset: str, part: str) -> str:
        scope = f"{self._node(cell, node)}/input_{self._feature(int(cell), int(offset))}"
        return f"{scope}/{_WIDTH[part]}" if part else scope

    def _feature(self, cell: int, offset: int) -> str:
        """Return the name of a feature of a cell: its inputs come first, then its nodes."""
        if offset >= len(self.levels):
            return self.cells[cell][offset - len(self.levels)].rsplit("/", 1)[1]
        level = self.levels[offset]
        if cell == 0:
            return f"0_up_lvl_{level}"
        names = [node.rsplit("/", 1)[1] for node in self.cells[cell - 1]]
        return next(name for name in reversed(names) if name.endswith(f"_lvl_{level}"))

    def _after(self, cell: str, node: str, part: str) -> str:
        return f"{self._node(cell, node)}/{_COMBINE[part]}"

    def _head(self, head: str, repeat: str, level: str) -> str:
        scope = f"{PREDICTOR}/{head.title()}PredictionTower/conv2d_{repeat}"
        return f"{scope}/BatchNorm/feature_{self.levels.index(int(level))}" if level else scope

    def _prediction(self, head: str) -> str:
        return f"{PREDICTOR}/WeightSharedConvolutional{head.title()}Head/{head.title()}Predictor"


def _numbers(text: str) -> list[int]:
    """Return the numbers in a name: 10 comes after 2."""
    return [int(number) for number in re.findall(r"(?<=_)\d+|\d+(?=_)", text.split("/bifpn/")[-1])]
