"""Compare a PyTorch model with a TensorFlow reference, layer by layer.

Cumulative: both networks run on the same images, so errors add up as they do in use. Isolated: each PyTorch layer is
fed the inputs of its TensorFlow layer, so errors do not add up and a broken layer fails alone.
"""

from __future__ import annotations

import itertools
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from converter.plan.expand import Plan
from verify.errors import ParityError
from verify.layers.measures import measure
from verify.layers.pairs import Pair, layer_pairs
from verify.layers.tolerances import tolerance
from verify.reference.base import LayerKey, Reference, Tap
from verify.results.verification import DType, LayerResult, Measures, Mode

if TYPE_CHECKING:
    from effdet_torch.terminal.bar import Progress

TENSORFLOW_MODES: tuple[Mode, ...] = ("cumulative", "isolated")
KEPT = 4  # arrays in `RecentTensors`: enough for nine of ten inputs of d0, and at most a few hundred MB


@dataclass(frozen=True)
class Match:
    """A pair and what TensorFlow computed for it; tensors are (B, C, H, W).

    Attributes:
        pair: which layer.
        order: position of its output in execution order, from 0.
        inputs: what the PyTorch layer is fed to run alone; empty if the reference does not show it.
        expected: TensorFlow's output.
        bias: (C, 1, 1) the redundant bias that TensorFlow's output has and PyTorch's lacks, or None. It is added to
            what is found: subtracted from an expected output that is small beside it, it would leave only rounding
            errors.
    """

    pair: Pair
    order: int
    inputs: tuple[Tensor, ...]
    expected: Tensor
    bias: Tensor | None

    def run(self, model: nn.Module) -> Tensor:
        """Run the PyTorch layer alone on TensorFlow's inputs, and return its output (B, C, H, W)."""
        return self.pair.comparison.run(model.get_submodule(self.pair.alone), self.inputs, self.expected.shape[2:])

    def measure(self, found: Tensor) -> Measures:
        """Compare a PyTorch layer's output (B, C, H, W) with TensorFlow's."""
        return measure(found if self.bias is None else found + self.bias, self.expected)

    def measure_alone(self, model: nn.Module) -> Measures:
        """Run the PyTorch layer alone and compare its output with TensorFlow's."""
        return self.measure(self.run(model))


Observer = Callable[[Match, Sequence[LayerResult]], None]  # (layer, its results in this dtype)


def compare_layers(
    reference: Reference,
    model: nn.Module,
    plan: Plan,
    images: NDArray[Any],
    dtype: DType,
    modes: Sequence[Mode] = TENSORFLOW_MODES,
    progress: Progress | None = None,
    observer: Observer | None = None,
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
        observer: called after every layer, while TensorFlow's input and output of it are in memory.

    Returns:
        Results in the reference's execution order.

    Raises:
        ParityError: The reference shows none of the layers; the model lacks a module, or runs it more often than the
            plan says; nothing compares a row of the plan.
    """
    model = model.to(getattr(torch, dtype)).eval()
    pairs = layer_pairs(plan)
    _require_modules(model, pairs)
    with torch.inference_mode(), one_thread():
        recorded = _record_planned(model, pairs, images, dtype) if "cumulative" in modes else {}
        results: list[LayerResult] = []
        for done, match in enumerate(match_layers(reference.taps(images), pairs), start=1):
            found = recorded.pop((match.pair.module, match.pair.call), None)
            of_layer = [_result(match, mode, dtype, found, model) for mode in modes if _is_shown(mode, match, found)]
            results += of_layer
            if observer is not None:
                observer(match, of_layer)
            if progress is not None:
                progress(done, len(pairs))
    if not results:
        raise ParityError("the reference shows none of the model's layers: it is a different network")
    return sorted(results, key=lambda result: result.order)


def _is_shown(mode: Mode, match: Match, found: Tensor | None) -> bool:
    return found is not None if mode == "cumulative" else bool(match.inputs)


def _result(match: Match, mode: Mode, dtype: DType, found: Tensor | None, model: nn.Module) -> LayerResult:
    pair = match.pair
    measures = match.measure_alone(model) if mode == "isolated" or found is None else match.measure(found)
    allowed = tolerance(mode, dtype, pair.layer.kind)
    return pair.result(mode, dtype, match.order, match.expected.shape, measures, allowed)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch on one thread: most layers alone are over before threads have met, and sums keep one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


Calls = dict[tuple[str, int], Tensor]  # (module, number of its call): output (B, C, H, W)


def _record_planned(model: nn.Module, pairs: Sequence[Pair], images: NDArray[Any], dtype: DType) -> Calls:
    """Record the outputs that the pairs compare, and refuse a module that runs more often than they say."""
    recorded = record_outputs(model, {pair.module for pair in pairs}, images, dtype)
    planned = {(pair.module, pair.call): pair for pair in pairs}
    for module, _ in recorded.keys() - planned.keys():
        where = planned[module, 0].layer.row.where
        runs, compared = (sum(name == module for name, _ in calls) for calls in (recorded, planned))
        raise ParityError(
            f"{module} runs {runs} times, and the plan compares {compared} of them, so the proof would be incomplete; "
            f"correct the row in {where}, or `per_level` of its kind in verify/layers/kinds.py"
        )
    return recorded


def _require_modules(model: nn.Module, pairs: Sequence[Pair]) -> None:
    modules = {name for name, _ in model.named_modules()}
    for pair in pairs:
        if pair.module not in modules:
            where = pair.layer.row.where
            raise ParityError(f"the model has no module {pair.module} to compare with {pair.name}; correct {where}")


def record_outputs(model: nn.Module, modules: Iterable[str], images: NDArray[Any], dtype: DType) -> Calls:
    """Run a model once, and return {(module, number of its call): a copy of its output (B, C, H, W)}."""
    outputs: Calls = {}
    calls: defaultdict[str, int] = defaultdict(int)

    def recorder(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            outputs[name, calls[name]] = output.clone()  # activations may overwrite it
            calls[name] += 1

        return hook

    with ExitStack() as hooks:
        for name in modules:
            hooks.enter_context(model.get_submodule(name).register_forward_hook(recorder(name)))
        model(to_nchw(images).to(getattr(torch, dtype)))
    return outputs


def match_layers(taps: Iterator[Tap], pairs: Sequence[Pair]) -> Iterator[Match]:
    """Yield every pair once TensorFlow has shown its inputs and its expected output; nothing else is kept."""
    waiting: defaultdict[LayerKey, list[Pair]] = defaultdict(list)
    for pair in pairs:
        for key in {pair.inputs_from, pair.output_from}:
            waiting[key].append(pair)
    inputs: dict[int, tuple[Tensor, ...]] = {}
    outputs: dict[int, tuple[int, Tensor, Tensor | None]] = {}
    order, to_nchw = itertools.count(), RecentTensors()
    for tap in taps:
        bias = None if tap.redundant_bias is None else torch.from_numpy(tap.redundant_bias.copy()).view(-1, 1, 1)
        for pair in waiting.get(tap.key, ()):
            if pair.inputs_from == tap.key:
                given = tuple(to_nchw(array) for array in tap.inputs)
                if bias is not None and pair.without_bias == "input":
                    given = tuple(tensor - bias for tensor in given)
                inputs[id(pair)] = given
            if pair.output_from == tap.key:
                missing = bias if pair.without_bias == "output" else None
                outputs[id(pair)] = next(order), to_nchw(tap.output), missing
            if id(pair) in inputs and id(pair) in outputs:
                position, output, missing = outputs.pop(id(pair))
                yield Match(pair, position, inputs.pop(id(pair)), output, missing)


class RecentTensors:
    """TensorFlow's arrays as PyTorch needs them; the last few are kept, because an output is soon an input."""

    def __init__(self) -> None:
        self._kept: deque[tuple[NDArray[Any], Tensor]] = deque(maxlen=KEPT)

    def __call__(self, array: NDArray[Any]) -> Tensor:
        """Return an NHWC array as a (B, C, H, W) tensor."""
        for kept, tensor in self._kept:
            if kept.ctypes.data == array.ctypes.data and kept.shape == array.shape:
                return tensor
        self._kept.append((array, to_nchw(array)))
        return self._kept[-1][1]


def to_nchw(array: NDArray[Any]) -> Tensor:
    """Return an NHWC array as a (B, C, H, W) tensor in its own memory."""
    batch, height, width, channels = array.shape
    tensor = torch.from_numpy(np.empty((batch, channels, height, width), array.dtype))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # and nothing writes to it
        pixels = torch.from_numpy(np.ascontiguousarray(array)).view(batch, height * width, channels)
    # PyTorch transposes matrices in blocks, several times faster than four axes at once.
    for one, other in zip(pixels, tensor.view(batch, channels, height * width), strict=True):
        other.copy_(one.t())
    return tensor
