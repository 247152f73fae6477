"""The BiFPN: nodes that bring features to one size and width, fuse them, and convolve the result.

Source: EfficientDet (arXiv:1911.09070) section 3; the official code's `efficientdet_keras` and `fpn_configs`, 2025-03.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from verify.errors import InputSizeError, ReferenceModelError
from verify.reference.base import Tap
from verify.reference.layers import Layers, Step, Tensor
from verify.reference.official.hparams import Hparams
from verify.reference.official.values import FpnNode

FUSION_EPSILON = 1e-4


class Pyramid(Layers):
    """The layers between backbone and heads."""

    def _coarser(self, feature: Tensor, level: int) -> Step:
        """Make the feature of a level that the backbone does not have from the one below."""
        size = [(pixels - 1) // 2 + 1 for pixels in feature.shape[1:3]]
        return (yield from self._resample(f"resample_p{level}", feature, size))

    def _cell(self, scope: str, inputs: Sequence[Tensor]) -> Step:
        """One cell, (finest, .., coarsest) to the same; a level gives what its last node gives."""
        features, levels = list(inputs), self._hparams.levels
        outputs = dict[int, Tensor]()
        for index, node in enumerate(cell_nodes(self._hparams)):
            size = list(inputs[node.level - levels[0]].shape[1:3])
            x = yield from self._node(f"{scope}/fnode{index}", node.inputs, features, size)
            outputs[node.level] = x
            features.append(x)
        return [outputs[level] for level in levels]

    def _node(self, scope: str, offsets: Sequence[int], features: Sequence[Tensor], size: list[int]) -> Step:
        """One node; `offsets` of its inputs among the features so far, whose number is its own."""
        number, inputs, resampled = len(features), [features[offset] for offset in offsets], []
        for position, (offset, x) in enumerate(zip(offsets, inputs, strict=True)):
            resampled.append((yield from self._resample(f"{scope}/resample_{position}_{offset}_{number}", x, size)))
        fused = self._fuse(scope, resampled)
        yield Tap(f"{scope}/fuse", None, tuple(resampled), fused)
        x = yield from self._combine(f"{scope}/op_after_combine{number}", f"{scope}/fuse", fused)
        yield Tap(scope, None, tuple(inputs), x)
        return x

    def _combine(self, scope: str, fuse: str, fused: Tensor) -> Step:
        if self._hparams.conv_bn_act_pattern:
            x = self._conv3x3(f"{scope}/conv", fused)
            yield Tap(f"{scope}/conv", None, (fused,), x)
            x = yield from self._batch_norm(f"{scope}/bn", x)
            x = yield from self._activation(f"{scope}/bn", x)
        else:
            x = yield from self._activation(fuse, fused)
            y = self._conv3x3(f"{scope}/conv", x)
            x = yield from self._biased_batch_norm(f"{scope}/conv", f"{scope}/bn", x, y)
        yield Tap(scope, None, (fused,), x)
        return x

    def _fuse(self, scope: str, features: Sequence[Tensor]) -> Tensor:
        """Add features with weights for each, or for each of its channels."""
        tf, method = self._tf, self._hparams.fpn_weight_method
        if method == "sum":
            return tf.add_n(features)
        names = [f"{scope}/WSM" + (f"_{position}" if position else "") for position in range(len(features))]
        expected = (self._hparams.fpn_num_filters,) if method.startswith("channel") else ()
        for name in names:
            if (found := self._shape(name)) != expected:
                raise ReferenceModelError(f"{name} has shape {found}; fpn_weight_method {method} needs {expected}")
        weights = tf.stack([self._variable(name) for name in names])
        if method.endswith("fastattn"):
            weights = tf.nn.relu(weights)
            weights /= tf.reduce_sum(weights, 0) + FUSION_EPSILON
        else:
            weights = tf.nn.softmax(weights, 0)
        return tf.add_n([x * weights[position] for position, x in enumerate(features)])

    def _resample(self, scope: str, inputs: Tensor, size: list[int]) -> Step:
        """Bring a feature to the BiFPN's channels and to a size (height, width): max pool down, nearest up."""
        x, found = inputs, list(inputs.shape[1:3])
        if (found[0] > size[0]) != (found[1] > size[1]):
            raise InputSizeError(f"{scope} would halve one side of {found} only: give larger images")
        pools = found[0] > size[0]
        conv_last = pools and self._hparams.conv_after_downsample
        if not conv_last:
            x = yield from self._to_width(scope, x)
        if pools:
            x = self._pool(x, size)
        elif found != size:
            x = self._tf.raw_ops.ResizeNearestNeighbor(images=x, size=size)
        if conv_last:
            x = yield from self._to_width(scope, x)
        yield Tap(scope, None, (inputs,), x)
        return x

    def _to_width(self, scope: str, x: Tensor) -> Step:
        """Bring a feature to the BiFPN's channels, where it has others."""
        if x.shape[3] == self._hparams.fpn_num_filters:
            return x
        if not self._hparams.apply_bn_for_resampling:
            return (yield from self._conv(f"{scope}/conv2d", x, bias=True))
        y = self._tf.nn.conv2d(x, self._variable(f"{scope}/conv2d/kernel"), 1, "SAME")
        return (yield from self._biased_batch_norm(f"{scope}/conv2d", f"{scope}/bn", x, y))

    def _pool(self, x: Tensor, size: list[int]) -> Tensor:
        strides = [(old - 1) // new + 1 for old, new in zip(x.shape[1:3], size, strict=True)]
        return self._tf.nn.max_pool2d(x, [stride + 1 for stride in strides], strides, "SAME")


def cell_nodes(hparams: Hparams) -> list[FpnNode]:
    """Return the nodes of one cell in execution order: the listed ones, or those of the named network."""
    if hparams.fpn_config is not None:
        return list(hparams.fpn_config)
    nodes = PATHS[hparams.fpn_name](len(hparams.levels))
    return [FpnNode(hparams.min_level + row, inputs) for row, inputs in nodes]


class _Nodes(list[tuple[int, tuple[int, ...]]]):
    """(row, inputs) of a cell's nodes; row 0 is the finest level, and a cell's inputs are numbered like its rows."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def add(self, row: int, *inputs: int) -> int:
        """Add a node and return its number."""
        self.append((row, inputs))
        return self.rows + len(self) - 1


def _two_paths(rows: int) -> _Nodes:
    """BiFPN, figure 2 d: down from the coarsest level, then up to it, where a node sees its whole row."""
    nodes, seen = _Nodes(rows), [[row] for row in range(rows)]
    for row in reversed(range(rows - 1)):
        seen[row].append(nodes.add(row, seen[row][-1], seen[row + 1][-1]))
    for row in range(1, rows):
        seen[row].append(nodes.add(row, *seen[row], seen[row - 1][-1]))
    return nodes


def _quad_paths(rows: int) -> _Nodes:
    """QuFPN: down and up, and apart from that up and down; then a node for every row that adds what both gave it.

    No node stands where a path begins: that row passes on what it has. On the way back a node has what the way there
    left in its row, but not the last one.
    """
    nodes, given = _Nodes(rows), list[dict[int, int]]()
    down, up = range(rows - 2, -1, -1), range(1, rows)
    for there, back in ((down, up), (up, down)):
        left = {there.start - there.step: there.start - there.step}
        for row in there:
            left[row] = nodes.add(row, row, left[row - there.step])
        last = {back.start - back.step: left[back.start - back.step]}
        for row in back:
            own = (row,) if row == back[-1] else (row, left[row])
            last[row] = nodes.add(row, *own, last[row - back.step])
        given.append(last)
    for row in reversed(range(rows)):
        nodes.add(row, given[0][row], given[1][row])
    return nodes


PATHS: Mapping[str, Callable[[int], _Nodes]] = {"bifpn": _two_paths, "bifpn_dyn": _two_paths, "qufpn": _quad_paths}
