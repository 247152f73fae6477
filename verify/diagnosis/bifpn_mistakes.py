"""Known mistakes in the computations of a BiFPN node: resampling, fusion, activation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from verify.diagnosis.layer_run import LayerRun, Output, other_activations, same_padding

FAST_ATTENTION_EPSILON = 1e-4


def fusion(run: LayerRun) -> Iterator[Output]:
    """Yield a node's inputs, resampled and added with other weights."""
    height, width = run.expected.shape[2:]
    resample = run.module.resample.values()
    features = torch.stack([layer(x, height, width) for layer, x in zip(resample, run.inputs, strict=True)])
    for words, weights in _fusion_weights(run.module.edge_weights, len(run.inputs), run.config.fusion):
        yield Output(f"{words} instead of {run.config.fusion}", torch.einsum("n,nbchw->bchw", weights, features))


def _fusion_weights(edge_weights: Tensor | None, count: int, fusion: str) -> Iterator[tuple[str, Tensor]]:
    """Yield (what, weights of the inputs); without learnt weights there is a sum or a mean."""
    ones = torch.ones(count, dtype=torch.float64 if edge_weights is None else edge_weights.dtype)
    if edge_weights is not None:
        positive = F.relu(edge_weights)
        if fusion != "attn":
            yield "softmax", torch.softmax(edge_weights, 0)
        if fusion != "fastattn":
            yield "relu over sum", positive / (positive.sum() + FAST_ATTENTION_EPSILON)
        yield "relu over sum without epsilon", positive / positive.sum()
        yield "weights over sum without relu", edge_weights / (edge_weights.sum() + FAST_ATTENTION_EPSILON)
        yield "weights that are not normalised", positive
    if fusion != "sum":
        yield "a plain sum", ones
    yield "the mean", ones / count


def node_activation(run: LayerRun) -> Iterator[Output]:
    """Yield a node with another activation between fusion and convolution."""
    features = [torch.empty(0)] * (max(run.module.offsets) + 1)
    for offset, feature in zip(run.module.offsets, run.inputs, strict=True):
        features[offset] = feature
    combined = run.module.combine([features[offset] for offset in run.module.offsets])
    for words, activated in other_activations(combined, run.config.activation):
        yield Output(words, run.module.after_combine.conv(activated))


def resampling(run: LayerRun) -> Iterator[Output]:
    """Yield features brought to the size of another level in other ways."""
    features, size = run.module.conv(run.inputs[0]), tuple(run.expected.shape[2:])
    if features.shape[2] < size[0] or features.shape[3] < size[1]:
        for mode in ("nearest-exact", "bilinear", "bicubic"):
            yield Output(f"{mode} upsampling instead of nearest", F.interpolate(features, size, mode=mode))
    elif features.shape[2] > size[0] or features.shape[3] > size[1]:
        yield from _pooling(features)


def _pooling(features: Tensor) -> Iterator[Output]:
    rows, columns = (same_padding(pixels, 3, 2) for pixels in features.shape[2:])
    same = [*columns, *rows]
    lowest = float(torch.finfo(features.dtype).min)
    right = "SAME pads with -inf, at the end first"
    ways = {
        "zeros as padding": F.pad(features, same),
        "padding on both sides": F.pad(features, [1, 1, 1, 1], value=lowest),
        "zeros as padding on both sides": F.pad(features, [1, 1, 1, 1]),
    }
    for words, padded in ways.items():
        yield Output(f"{words}; {right}", F.max_pool2d(padded, 3, 2))
    yield Output("2x2 windows instead of 3x3", F.max_pool2d(features, 2, 2, ceil_mode=True))
    yield Output("the average instead of the maximum", F.avg_pool2d(F.pad(features, same), 3, 2))
