"""Compare a PyTorch model with a TensorFlow reference, layer by layer.

Cumulative: both networks on the same images; errors add up as they do in use. Isolated: each PyTorch layer is fed the
inputs of its TensorFlow layer; errors do not add up, so the broken layer stands alone.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from converter.plan.expand import Plan
from verify.errors import ParityError
from verify.layers.measures import measure
from verify.layers.pairs import Pair, layer_pairs, run_isolated
from verify.layers.tolerances import tolerance
from verify.reference.base import LayerKey, Reference, Tap
from verify.results import DType, LayerResult, Measures, Mode

MODES: tuple[Mode, ...] = ("cumulative", "isolated")
Progress = Callable[[int, int], None]  # (layers done, layers in all)


def compare_layers(
    reference: Reference,
    model: nn.Module,
    plan: Plan,
    images: NDArray[Any],
    dtype: DType,
    modes: Sequence[Mode] = MODES,
    progress: Progress | None = None,
) -> list[LayerResult]:
    """Compare every layer that the reference shows.

    Args:
        reference: computes in `dtype`.
        model: in eval mode; it is converted to `dtype` in place.
        plan: gives the layer pairs.
        images: (B, H, W, 3), normalised.
        dtype: "float32" or "float64".
        modes: which comparisons to make.
        progress: called after every layer.

    Returns:
        Results in the reference's execution order.

    Raises:
        ParityError: The reference shows none of the layers.
    """
    model = model.to(getattr(torch, dtype)).eval()
    pairs = layer_pairs(plan)
    with torch.inference_mode(), one_thread():
        recorded = (
            record_outputs(model, {pair.module for pair in pairs}, images, dtype) if "cumulative" in modes else {}
        )
        results: list[LayerResult] = []
        for done, match in enumerate(match_layers(reference.taps(images), pairs), start=1):
            call = match.pair.module, match.pair.call
            for mode in modes:
                found = recorded.get(call) if mode == "cumulative" else _isolated(match, model)
                if found is not None:
                    results.append(_result(match, mode, dtype, found))
            recorded.pop(call, None)
            if progress is not None:
                progress(done, len(pairs))
    if not results:
        raise ParityError("the reference shows none of the model's layers: it is another network")
    return sorted(results, key=lambda result: result.order)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch on one thread: a layer alone is over before threads have met, and its sums keep one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def record_outputs(
    model: nn.Module, modules: Iterable[str], images: NDArray[Any], dtype: DType
) -> dict[tuple[str, int], NDArray[Any]]:
    """Run a model once, and return {(module, number of its call): output, NHWC}."""
    outputs: dict[tuple[str, int], NDArray[Any]] = {}
    calls: defaultdict[str, int] = defaultdict(int)

    def recorder(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            outputs[name, calls[name]] = to_nhwc(output)
            calls[name] += 1

        return hook

    with ExitStack() as hooks:
        for name in modules:
            hooks.enter_context(model.get_submodule(name).register_forward_hook(recorder(name)))
        model(to_nchw(images, dtype))
    return outputs


@dataclass(frozen=True)
class Match:
    """A pair, once TensorFlow has shown both its sides.

    Attributes:
        pair: which layer.
        order: position of its output in execution order, from 0.
        inputs: NHWC, what the PyTorch layer is fed with to run alone; empty if unknown.
        expected: NHWC.
        bias: (C,) the redundant bias that TensorFlow's output has and PyTorch's has not, or None. It is added to what
            is found: taken off the expected output, it would leave but roundings where the output is small beside it.
    """

    pair: Pair
    order: int
    inputs: tuple[NDArray[Any], ...]
    expected: NDArray[Any]
    bias: NDArray[Any] | None

    def measure(self, found: NDArray[Any]) -> Measures:
        """Compare a PyTorch layer's output, NHWC, with TensorFlow's."""
        return measure(found if self.bias is None else found + self.bias, self.expected)


def match_layers(taps: Iterator[Tap], pairs: Sequence[Pair]) -> Iterator[Match]:
    """Yield every pair once TensorFlow has shown its inputs and its expected output; nothing else is kept."""
    waiting: defaultdict[LayerKey, list[Pair]] = defaultdict(list)
    for pair in pairs:
        for key in {pair.inputs_from, pair.output_from}:
            waiting[key].append(pair)
    inputs: dict[int, tuple[NDArray[Any], ...]] = {}
    outputs: dict[int, tuple[int, NDArray[Any], NDArray[Any] | None]] = {}
    order = itertools.count()
    for tap in taps:
        for pair in waiting.get(tap.key, ()):
            if pair.inputs_from == tap.key:
                bias = tap.redundant_bias if pair.without_bias == "input" else None
                inputs[id(pair)] = tap.inputs if bias is None else tuple(array - bias for array in tap.inputs)
            if pair.output_from == tap.key:
                bias = tap.redundant_bias if pair.without_bias == "output" else None
                outputs[id(pair)] = next(order), tap.output, bias
            if id(pair) in inputs and id(pair) in outputs:
                position, output, bias = outputs.pop(id(pair))
                yield Match(pair, position, inputs.pop(id(pair)), output, bias)


def _isolated(match: Match, model: nn.Module) -> NDArray[Any] | None:
    """Run the PyTorch layer on TensorFlow's inputs; None where the reference does not show them."""
    if not match.inputs:
        return None
    dtype: DType = "float64" if match.expected.dtype == np.float64 else "float32"
    inputs = [to_nchw(array, dtype) for array in match.inputs]
    return to_nhwc(run_isolated(match.pair, model, inputs, match.expected.shape[1:3]))


def _result(match: Match, mode: Mode, dtype: DType, found: NDArray[Any]) -> LayerResult:
    pair = match.pair
    return LayerResult(
        order=match.order,
        tf=pair.layer.tf,
        torch=pair.module,
        kind=pair.layer.kind,
        level=pair.level,
        mode=mode,
        dtype=dtype,
        shape=match.expected.shape,
        measures=match.measure(found),
        tolerance=tolerance(mode, dtype, pair.layer.kind),
    )


def to_nchw(array: NDArray[Any], dtype: DType) -> Tensor:
    """Return an NHWC array as a (B, C, H, W) tensor."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(getattr(torch, dtype)).permute(0, 3, 1, 2).contiguous()


def to_nhwc(tensor: Tensor) -> NDArray[Any]:
    """Return a (B, C, H, W) tensor as an NHWC array, in memory of its own."""
    array: NDArray[Any] = tensor.detach().permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).numpy()
    return array


def uncompared(plan: Plan, results: Iterable[LayerResult]) -> list[str]:
    """Return the TensorFlow scopes that a plan has and no result covers."""
    seen: Mapping[tuple[str, int | None], bool] = {(result.tf, result.level): True for result in results}
    return [pair.layer.tf for pair in layer_pairs(plan) if (pair.layer.tf, pair.level) not in seen]
